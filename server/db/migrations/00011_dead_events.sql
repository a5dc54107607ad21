-- +goose Up

-- Events that were given up because a sink did not take them: kept apart from the outbox, which forgets sooner. again is 1
-- while one is to be sent once more.
CREATE TABLE event_dead (
    sink TEXT NOT NULL,
    number BIGINT NOT NULL,
    died BIGINT NOT NULL,
    again BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    reason TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (sink, number)
);

CREATE INDEX event_dead_died ON event_dead (died);

-- +goose Down
DROP TABLE event_dead;

-- +goose Up

-- What sessions are about to do to files and what sinks are to be told of: a row from before the deed until its event is in
-- the outbox. Those of a dead node are resolved by whoever finds them.
CREATE TABLE deeds (
    id TEXT PRIMARY KEY NOT NULL,
    node TEXT NOT NULL,
    began BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE INDEX deeds_node ON deeds (node);

-- +goose Down
DROP TABLE deeds;

-- +goose Up

-- What sinks are told. Numbers have no gaps, and who sees one sees all before it.
CREATE TABLE events (
    number BIGINT PRIMARY KEY NOT NULL,
    made BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE INDEX events_made ON events (made);

-- The last number that was given away, in one row.
CREATE TABLE event_numbers (
    name TEXT PRIMARY KEY NOT NULL,
    number BIGINT NOT NULL
);

-- How far each sink is, and the node that sends to it, '' for none. turn changes when somebody sets sent by hand.
CREATE TABLE event_sinks (
    name TEXT PRIMARY KEY NOT NULL,
    sent BIGINT NOT NULL,
    turn BIGINT NOT NULL,
    node TEXT NOT NULL
);

-- +goose Down
DROP TABLE event_sinks;
DROP TABLE event_numbers;
DROP TABLE events;

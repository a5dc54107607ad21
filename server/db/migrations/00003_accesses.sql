-- +goose Up
CREATE TABLE accesses (
    server_id TEXT NOT NULL REFERENCES servers (id),
    external_id TEXT NOT NULL,
    rev BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (server_id, external_id)
);

-- Counting ten thousand rows at each look at a server, and at each new user for the quota, takes longer than all else.
ALTER TABLE servers ADD COLUMN user_count BIGINT NOT NULL DEFAULT 0;

UPDATE servers SET user_count = (SELECT COUNT(*) FROM users WHERE server_id = servers.id);

-- Host keys can be changed now: their descriptions and tags.
ALTER TABLE host_keys ADD COLUMN rev BIGINT NOT NULL DEFAULT 1;

-- What has ended, in the order in which it is to be forgotten.
CREATE INDEX executions_ended ON executions (ended) WHERE ended > 0;

-- A hash of where an upload goes, so that the latest one to a place is found; migration 4 fills it in.
ALTER TABLE uploads ADD COLUMN place BIGINT NOT NULL DEFAULT 0;

CREATE INDEX uploads_place ON uploads (place, began);

-- +goose Down
DROP INDEX uploads_place;
ALTER TABLE uploads DROP COLUMN place;
DROP INDEX executions_ended;
ALTER TABLE host_keys DROP COLUMN rev;
ALTER TABLE servers DROP COLUMN user_count;
DROP TABLE accesses;

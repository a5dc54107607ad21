-- Rules for every migration: one text for SQLite and PostgreSQL. Ids are TEXT and made by the server; times are BIGINT,
-- milliseconds since 1970, 0 for "not yet"; a document is the API's JSON in TEXT with the searched columns beside it;
-- rev counts the changes of a row.

-- +goose Up
CREATE TABLE meta (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

CREATE TABLE workflows (
    id TEXT PRIMARY KEY NOT NULL,
    rev BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE TABLE servers (
    id TEXT PRIMARY KEY NOT NULL,
    rev BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE TABLE users (
    server_id TEXT NOT NULL REFERENCES servers (id),
    name TEXT NOT NULL,
    rev BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (server_id, name)
);

CREATE TABLE host_keys (
    server_id TEXT NOT NULL REFERENCES servers (id),
    id TEXT NOT NULL,
    imported BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (server_id, id)
);

-- What the WorkflowDetails in the server's document say, searchable from both sides.
CREATE TABLE attachments (
    server_id TEXT NOT NULL REFERENCES servers (id),
    event TEXT NOT NULL,
    workflow_id TEXT NOT NULL REFERENCES workflows (id),
    role TEXT NOT NULL,
    PRIMARY KEY (server_id, event)
);

CREATE INDEX attachments_workflow ON attachments (workflow_id);

-- +goose Down
DROP TABLE attachments;
DROP TABLE host_keys;
DROP TABLE users;
DROP TABLE servers;
DROP TABLE workflows;
DROP TABLE meta;

-- +goose Up

-- The processes that share the database: seen is when each last said that it lives, 0 when it said that it ends.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY NOT NULL,
    started BIGINT NOT NULL,
    seen BIGINT NOT NULL
);

-- +goose Down
DROP TABLE nodes;

-- +goose Up

-- Where a node listens, as a document; '' before it has said so.
ALTER TABLE nodes ADD COLUMN doc TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE nodes DROP COLUMN doc;

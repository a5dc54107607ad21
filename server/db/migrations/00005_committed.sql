-- +goose Up

-- What the storage committed of an upload whose verdict is still to come (session.Commit), '' for nothing. The final reply
-- of FTP stands between the two.
ALTER TABLE uploads ADD COLUMN committed TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE uploads DROP COLUMN committed;

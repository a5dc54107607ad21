-- +goose Up

-- While an execution waits for a callback (workflow.Wait): its token, the rest as a document, and the queue's job that
-- ends the wait in time. '', '' and 0 while it does not.
ALTER TABLE executions ADD COLUMN token TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN wait TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN timer BIGINT NOT NULL DEFAULT 0;

-- Whose file an execution is about, so that those of a server that goes can be ended. Until now each has its upload's id.
ALTER TABLE executions ADD COLUMN server_id TEXT NOT NULL DEFAULT '';

UPDATE executions SET server_id = COALESCE((SELECT server_id FROM uploads WHERE uploads.id = executions.id), '');

CREATE INDEX executions_open ON executions (server_id) WHERE ended = 0;

-- +goose Down
DROP INDEX executions_open;
ALTER TABLE executions DROP COLUMN server_id;
ALTER TABLE executions DROP COLUMN timer;
ALTER TABLE executions DROP COLUMN wait;
ALTER TABLE executions DROP COLUMN token;

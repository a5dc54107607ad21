-- +goose Up

-- While the current step has a state (workflow.Progress): it as a document, and which piece of the step is the next job's.
-- '' and 0 while it has none.
ALTER TABLE executions ADD COLUMN progress TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN piece BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE executions DROP COLUMN piece;
ALTER TABLE executions DROP COLUMN progress;

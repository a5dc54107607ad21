-- +goose Up

-- How many steps the execution's job has done before the current one: the job began with step - carried.
ALTER TABLE executions ADD COLUMN carried BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE executions DROP COLUMN carried;

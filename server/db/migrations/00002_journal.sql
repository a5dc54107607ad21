-- +goose Up

-- No references to servers or workflows: what was sent stays readable when they are gone.
CREATE TABLE uploads (
    id TEXT PRIMARY KEY NOT NULL,
    node TEXT NOT NULL,
    server_id TEXT NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    token TEXT NOT NULL,
    doc TEXT NOT NULL,
    verdict TEXT NOT NULL
);

CREATE INDEX uploads_open ON uploads (node) WHERE ended = 0;
CREATE INDEX uploads_began ON uploads (began, id);

-- doc is what never changes of an execution; phase and step name its current job.
CREATE TABLE executions (
    id TEXT PRIMARY KEY NOT NULL,
    workflow_id TEXT NOT NULL,
    status TEXT NOT NULL,
    phase TEXT NOT NULL,
    step BIGINT NOT NULL,
    previous TEXT NOT NULL,
    began BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE INDEX executions_workflow ON executions (workflow_id, began, id);

CREATE TABLE step_results (
    execution_id TEXT NOT NULL REFERENCES executions (id),
    phase TEXT NOT NULL,
    step BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (execution_id, phase, step)
);

-- +goose Down
DROP TABLE step_results;
DROP TABLE executions;
DROP TABLE uploads;

package api

import (
	"context"
	"errors"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

type sendWorkflowStepStateRequest struct {
	WorkflowId  workflow.ID
	ExecutionId workflow.ExecutionID
	Token       string
	Status      string
}

// sendWorkflowStepState lets a custom step tell how it went. An execution outlives its workflow, so that a workflow
// which was deleted meanwhile is missed only where there is no execution either. Whether a late call is a thing not
// found or a bad request is not documented; here what does not exist is not found, and what waits for nothing is a bad
// request.
func (a *API) sendWorkflowStepState(ctx context.Context, in sendWorkflowStepStateRequest) (struct{}, error) {
	var none struct{}
	// The model allows both cases of hexadecimal digits, and ids are made in lower case.
	id := workflow.ExecutionID(strings.ToLower(string(in.ExecutionId)))
	e, err := a.executions.Execution(ctx, id)
	if _, unknown := errors.AsType[*server.NotFoundError](err); unknown || err == nil && e.WorkflowId != in.WorkflowId {
		if _, err := a.workflows.Workflow(ctx, in.WorkflowId); err != nil {
			return none, err
		}
		return none, &server.NotFoundError{ResourceType: "Execution", Resource: string(in.ExecutionId)}
	}
	if err != nil {
		return none, err
	}
	if a.callbacks == nil || e.Status != workflow.InProgress && e.Status != workflow.HandlingException {
		return none, noCallback(in.ExecutionId)
	}
	err = a.callbacks.Callback(ctx, in.WorkflowId, id, in.Token, in.Status == "SUCCESS")
	if errors.Is(err, workflow.ErrNoCallback) {
		return none, noCallback(in.ExecutionId)
	}
	return none, err
}

func noCallback(id workflow.ExecutionID) error {
	return invalid("Execution %s waits for no callback with this token", id)
}

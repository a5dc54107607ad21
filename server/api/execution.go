package api

import (
	"context"
	"errors"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api/internal/awsjson"
	"github.com/transferd/transferd/workflow"
)

type describeExecutionRequest struct {
	ExecutionId workflow.ExecutionID
	WorkflowId  workflow.ID
}

type describeExecutionAnswer struct {
	WorkflowId workflow.ID
	Execution  describedExecution
}

// describedExecution is shape DescribedExecution, and one member more.
type describedExecution struct {
	ExecutionId          workflow.ExecutionID
	InitialFileLocation  workflow.FileLocation
	ServiceMetadata      workflow.ServiceMetadata
	ExecutionRole        string                `json:",omitempty"`
	LoggingConfiguration *loggingConfiguration `json:",omitempty"`
	PosixProfile         *server.PosixProfile  `json:",omitempty"`
	Status               workflow.Status
	Results              results
	Transferd            ours
}

type loggingConfiguration struct{ LoggingRole, LogGroupName string }

type results struct {
	Steps            []stepResult `json:",omitempty"`
	OnExceptionSteps []stepResult `json:",omitempty"`
}

// stepResult is shape ExecutionStepResult.
type stepResult struct {
	StepType string
	Outputs  string          `json:",omitempty"`
	Error    *workflow.Error `json:",omitempty"`
}

// ours is what AWS does not show: why the execution is, and when. Clients ignore members that they do not know.
type ours struct {
	Trigger          workflow.Trigger
	Evidence         string               `json:",omitempty"`
	Began            server.Time          // when the upload's verdict fell
	Ended            *server.Time         `json:",omitempty"`
	RetryOf          workflow.ExecutionID `json:",omitempty"` // the execution that this one does over again
	WaitsUntil       *server.Time         `json:",omitempty"` // when its current step gives up waiting for a callback
	Steps            []stepTimes          `json:",omitempty"`
	OnExceptionSteps []stepTimes          `json:",omitempty"`
}

// stepTimes stand in the order of the results.
type stepTimes struct {
	Attempt int // more than 1 is a repeat
	Began   server.Time
	Ended   server.Time
}

// describeExecution shows an execution while it runs and afterwards. (AWS shows running ones only.)
func (a *API) describeExecution(ctx context.Context, in describeExecutionRequest) (*describeExecutionAnswer, error) {
	// The model allows both cases of hexadecimal digits, and ids are made in lower case.
	id := workflow.ExecutionID(strings.ToLower(string(in.ExecutionId)))
	e, err := a.executions.Execution(ctx, id)
	if err == nil && e.WorkflowId != in.WorkflowId {
		err = &server.NotFoundError{ResourceType: "Execution", Resource: string(in.ExecutionId)}
	}
	if err != nil {
		return nil, err
	}
	logging, err := a.loggingOf(ctx, server.ID(e.ServiceMetadata.UserDetails.ServerId))
	if err != nil {
		return nil, err
	}
	return &describeExecutionAnswer{WorkflowId: e.WorkflowId, Execution: describe(e, logging)}, nil
}

func describe(e workflow.Execution, logging *loggingConfiguration) describedExecution {
	d := describedExecution{
		ExecutionId: e.ExecutionId, InitialFileLocation: e.InitialFileLocation.Shown(), ServiceMetadata: e.ServiceMetadata,
		ExecutionRole: e.ExecutionRole, LoggingConfiguration: logging, Status: e.Status,
		Transferd: ours{Trigger: e.Trigger, Evidence: e.Evidence, Began: server.Time{Time: e.Began}},
	}
	if !e.Ended.IsZero() {
		d.Transferd.Ended = &server.Time{Time: e.Ended}
	}
	if e.Posix != nil {
		d.PosixProfile = &server.PosixProfile{Uid: int64(e.Posix.UID), Gid: int64(e.Posix.GID)}
		for _, g := range e.Posix.Groups {
			d.PosixProfile.SecondaryGids = append(d.PosixProfile.SecondaryGids, int64(g))
		}
	}
	d.Transferd.RetryOf = e.RetryOf
	if e.Wait != nil {
		d.Transferd.WaitsUntil = &server.Time{Time: e.Wait.Until}
	}
	d.Results.Steps, d.Transferd.Steps = split(e.Results.Steps)
	d.Results.OnExceptionSteps, d.Transferd.OnExceptionSteps = split(e.Results.OnExceptionSteps)
	return d
}

// split parts what AWS shows of steps from what we add.
func split(steps []workflow.StepResult) ([]stepResult, []stepTimes) {
	results := make([]stepResult, 0, len(steps))
	times := make([]stepTimes, 0, len(steps))
	for _, s := range steps {
		results = append(results, stepResult{StepType: s.StepType, Outputs: s.Outputs, Error: s.Error})
		times = append(times, stepTimes{Attempt: s.Attempt, Began: server.Time{Time: s.Began}, Ended: server.Time{Time: s.Ended}})
	}
	return results, times
}

// loggingOf is the server's logging, if it has any and is still there. The group's name is fixed: "/aws/transfer/" and
// the server's id (user guide, logging).
func (a *API) loggingOf(ctx context.Context, id server.ID) (*loggingConfiguration, error) {
	s, err := a.servers.Server(ctx, id)
	if _, gone := errors.AsType[*server.NotFoundError](err); gone || err == nil && s.LoggingRole == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &loggingConfiguration{LoggingRole: s.LoggingRole, LogGroupName: "/aws/transfer/" + string(id)}, nil
}

type listExecutionsRequest struct {
	WorkflowId workflow.ID
	pageRequest
}

// listedExecution is shape ListedExecution.
type listedExecution struct {
	ExecutionId         workflow.ExecutionID
	InitialFileLocation workflow.FileLocation
	ServiceMetadata     workflow.ServiceMetadata
	Status              workflow.Status
}

type listExecutionsAnswer struct {
	NextToken  string `json:",omitempty"`
	WorkflowId workflow.ID
	Executions []listedExecution
}

// listExecutions lists executions, the ended ones and those of a deleted workflow too.
func (a *API) listExecutions(ctx context.Context, in listExecutionsRequest) (*listExecutionsAnswer, error) {
	all, next, err := page(a, list{"ListExecutions", string(in.WorkflowId)}, in.pageRequest,
		func(p server.Page) ([]workflow.Execution, error) {
			all, err := a.executions.Executions(ctx, in.WorkflowId, p)
			if err != nil || len(all) > 0 || p.After == "" {
				return all, err
			}
			// After a forgotten execution nothing comes, which would look like the end of the list.
			_, err = a.executions.Execution(ctx, workflow.ExecutionID(p.After))
			if _, forgotten := errors.AsType[*server.NotFoundError](err); forgotten {
				err = awsjson.Errorf("InvalidNextTokenException", "The NextToken points to an execution that is no longer kept: begin anew")
			}
			return nil, err
		},
		func(e workflow.Execution) string { return string(e.ExecutionId) })
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		if _, err := a.workflows.Workflow(ctx, in.WorkflowId); err != nil {
			return nil, err
		}
	}
	out := &listExecutionsAnswer{NextToken: next, WorkflowId: in.WorkflowId, Executions: make([]listedExecution, 0, len(all))}
	for _, e := range all {
		out.Executions = append(out.Executions, listedExecution{
			ExecutionId: e.ExecutionId, InitialFileLocation: e.InitialFileLocation.Shown(), ServiceMetadata: e.ServiceMetadata, Status: e.Status,
		})
	}
	return out, nil
}

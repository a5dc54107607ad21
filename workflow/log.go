package workflow

import (
	"context"
	"encoding/json"
	"log/slog"
)

// The events of a workflow's log, with AWS's names and members:
// https://docs.aws.amazon.com/transfer/latest/userguide/cloudwatch-workflows.html. Beyond AWS's, an execution's events
// carry trigger and evidence, and a step's events carry phase and attempt.

type stepDetails struct {
	Input        *eventInput     `json:"input,omitempty"`
	Output       json.RawMessage `json:"output,omitempty"`
	ErrorType    ErrorType       `json:"errorType,omitempty"`
	ErrorMessage string          `json:"errorMessage,omitempty"`
	StepType     string          `json:"stepType"`
	StepName     string          `json:"stepName"`
}

type eventInput struct {
	InitialFileLocation *eventLocation `json:"initialFileLocation,omitempty"`
	FileLocation        *eventLocation `json:"fileLocation,omitempty"`
}

type eventLocation struct {
	BackingStore string `json:"backingStore,omitempty"`
	Bucket       string `json:"bucket,omitempty"`
	Key          string `json:"key,omitempty"`
	VersionId    string `json:"versionId,omitempty"`
	Etag         string `json:"etag,omitempty"`
	FilesystemId string `json:"filesystemId,omitempty"`
	Path         string `json:"path,omitempty"`
}

func located(l FileLocation) *eventLocation {
	switch {
	case l.S3FileLocation != nil:
		s := l.S3FileLocation
		return &eventLocation{BackingStore: "S3", Bucket: s.Bucket, Key: s.Key, VersionId: s.VersionId, Etag: s.Etag}
	case l.EfsFileLocation != nil:
		e := l.EfsFileLocation
		return &eventLocation{BackingStore: "EFS", FilesystemId: e.FileSystemId, Path: e.Path}
	}
	return &eventLocation{}
}

func (e *Engine) logExecution(ctx context.Context, level slog.Level, kind string, x Execution) {
	details := struct {
		Input *eventInput `json:"input,omitempty"`
	}{}
	if kind == "ExecutionStarted" {
		details.Input = &eventInput{InitialFileLocation: located(x.InitialFileLocation)}
		if x.InitialFileLocation.S3FileLocation != nil {
			details.Input.InitialFileLocation.BackingStore = "" // AWS names it here for EFS alone
		}
	}
	e.event(ctx, level, kind, x, details,
		slog.String("trigger", string(x.Trigger)), slog.String("evidence", x.Evidence))
}

func (e *Engine) logStepStarted(ctx context.Context, r *run) {
	kind := "StepStarted"
	if r.planned {
		kind = "StepContinued" // not AWS's
	}
	e.logStep(ctx, slog.LevelInfo, kind, r, stepDetails{Input: &eventInput{FileLocation: located(r.in.Source)}})
}

// logInvoked tells of a custom step about to call its function. The token stands in it, as in AWS's own log; it is worth
// nothing without the right to call SendWorkflowStepState.
func (e *Engine) logInvoked(ctx context.Context, r *run, token string) {
	output, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		output = nil // strings always marshal
	}
	e.logStep(ctx, slog.LevelInfo, "CustomStepInvoked", r, stepDetails{Output: output})
}

// logStepEnded tells of a step whose result is committed; cause is what the result does not show.
func (e *Engine) logStepEnded(ctx context.Context, r *run, result StepResult, cause error) {
	if result.Error != nil {
		e.logStep(ctx, slog.LevelWarn, "StepErrored", r,
			stepDetails{ErrorType: result.Error.Type, ErrorMessage: result.Error.Message},
			slog.String("cause", cause.Error()))
		return
	}
	output := json.RawMessage(result.Outputs)
	if len(output) == 0 {
		output = json.RawMessage("{}")
	}
	e.logStep(ctx, slog.LevelInfo, "StepCompleted", r, stepDetails{Output: output})
}

func (e *Engine) logStep(ctx context.Context, level slog.Level, kind string, r *run, d stepDetails, more ...slog.Attr) {
	d.StepType, d.StepName = r.spec.Type, r.spec.Name()
	more = append(more, slog.String("phase", string(r.job.Phase)), slog.Int("attempt", r.job.Attempt))
	if r.job.Piece > 0 {
		more = append(more, slog.Int("piece", r.job.Piece))
	}
	e.event(ctx, level, kind, r.x, d, more...)
}

// event writes AWS's envelope.
func (e *Engine) event(ctx context.Context, level slog.Level, kind string, x Execution, details any, more ...slog.Attr) {
	user := x.ServiceMetadata.UserDetails
	attrs := []slog.Attr{
		slog.String("type", kind),
		slog.Any("details", details),
		slog.String("workflowId", string(x.WorkflowId)),
		slog.String("executionId", string(x.ExecutionId)),
		slog.Group("transferDetails",
			slog.String("serverId", user.ServerId),
			slog.String("username", user.UserName),
			slog.String("sessionId", user.SessionId)),
	}
	e.cfg.Log.LogAttrs(ctx, level, "workflow", append(attrs, more...)...)
}

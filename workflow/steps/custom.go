package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/transferd/transferd/workflow"
)

// Function is somebody who works on a file: what a Target stands for.
type Function interface {
	// Invoke tells the function of a file, and returns when the function has taken the call, or, if it is a synchronous
	// one, has ended. The error is a *workflow.StepError where the function itself is to blame.
	Invoke(ctx context.Context, c Call) error
}

// Call is what a function is told.
type Call struct {
	Payload   []byte // AWS's JSON
	Execution workflow.ExecutionID
	Attempt   int // more than 1 marks a repeat
}

// Target is a function and how it answers.
type Target struct {
	Function Function
	// Synchronous functions have done their work when Invoke returns. Others call SendWorkflowStepState.
	Synchronous bool
}

// Custom calls the function that Targets has under the step's Target.
type Custom struct{ Targets map[string]Target }

// payload is what AWS sends to a function, member by member
// (https://docs.aws.amazon.com/transfer/latest/userguide/custom-step-details.html).
type payload struct {
	Token           string          `json:"token"`
	ServiceMetadata serviceMetadata `json:"serviceMetadata"`
	FileLocation    any             `json:"fileLocation"`
}

type serviceMetadata struct {
	ExecutionDetails executionDetails `json:"executionDetails"`
	TransferDetails  transferDetails  `json:"transferDetails"`
}

type executionDetails struct {
	WorkflowID  workflow.ID          `json:"workflowId"`
	ExecutionID workflow.ExecutionID `json:"executionId"`
}

type transferDetails struct {
	SessionID string `json:"sessionId"`
	UserName  string `json:"userName"`
	ServerID  string `json:"serverId"`
}

type s3Location struct {
	Domain    string  `json:"domain"`
	Bucket    string  `json:"bucket"`
	Key       string  `json:"key"`
	ETag      string  `json:"eTag"`
	VersionID *string `json:"versionId"` // null where there are no versions
}

type efsLocation struct {
	Domain       string `json:"domain"`
	FileSystemID string `json:"fileSystemId"`
	Path         string `json:"path"`
}

// Run calls the function. Nobody looks at the file before: it is the function's to say what is wrong with it.
func (s *Custom) Run(ctx context.Context, in *workflow.Input) error {
	details := in.Spec.CustomStepDetails
	if details == nil {
		return bad("The step has no CustomStepDetails.")
	}
	target, ok := s.Targets[details.Target]
	if !ok {
		return bad("No function is configured for " + details.Target + ".")
	}
	if target.Synchronous {
		return s.run(ctx, in, target.Function, details.Timeout())
	}
	wait, err := in.Await(ctx, details.Timeout())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, wait.Until)
	defer cancel()
	return invoke(ctx, in, target.Function, wait.Token)
}

// run waits for the function's end. It has no token, for it has nobody to call.
func (s *Custom) run(ctx context.Context, in *workflow.Input, f Function, timeout time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := invoke(bounded, in, f, "")
	if err != nil && ctx.Err() == nil && errors.Is(bounded.Err(), context.DeadlineExceeded) {
		return &workflow.StepError{Type: workflow.StepTimeout, Err: errors.Join(workflow.ErrPermanent, err),
			Message: fmt.Sprintf("The function took longer than %v.", timeout)}
	}
	return err
}

func invoke(ctx context.Context, in *workflow.Input, f Function, token string) error {
	p := payload{Token: token, ServiceMetadata: serviceMetadata{
		ExecutionDetails: executionDetails{in.Workflow, in.Execution},
		TransferDetails:  transferDetails{in.User.SessionId, in.User.UserName, in.User.ServerId},
	}}
	switch {
	case in.Source.S3FileLocation != nil:
		l := in.Source.S3FileLocation
		at := s3Location{Domain: s3, Bucket: l.Bucket, Key: l.Key, ETag: l.Etag}
		if l.VersionId != "" {
			at.VersionID = &l.VersionId
		}
		p.FileLocation = at
	case in.Source.EfsFileLocation != nil:
		l := in.Source.EfsFileLocation
		p.FileLocation = efsLocation{efs, l.FileSystemId, l.Path}
	default:
		return bad("The step has no file to work on.")
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	return f.Invoke(ctx, Call{Payload: body, Execution: in.Execution, Attempt: in.Attempt})
}

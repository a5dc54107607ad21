package workflow

import (
	"context"
	"encoding/json"
	"time"

	"github.com/transferd/transferd/storage"
)

// Step is what one type of step does. It may run twice for one and the same Input but for a higher Attempt: a process
// that dies between the effect and its record leaves no trace of the first run. So an effect that stands already is a
// success whenever Attempt is above 1.
//
// An error that is or wraps a *StepError carries the API's type and text; any other one is INTERNAL_SERVER_ERROR. Which
// errors are worth another attempt says Retriable.
type Step interface {
	Run(ctx context.Context, in *Input) error
}

// Input is what a step works on, and what it leaves.
type Input struct {
	Spec StepSpec
	// Source is the file that the step reads: what Spec's SourceFileLocation means now.
	Source FileLocation
	// Original is the uploaded file, Previous the file that the last successful step left. Before the first step both
	// are the same.
	Original FileLocation
	Previous FileLocation

	Workflow   ID
	Execution  ExecutionID
	Trigger    Trigger
	User       UserDetails
	UploadDate time.Time // UTC
	Attempt    int       // 1 for the first try
	// Identity is on whose behalf the step touches files.
	Identity storage.Identity

	// Await makes the execution wait for a callback, for so long from the first attempt on; it is durable once it
	// returns. Only then may the function be called, for it may answer at any moment. A step that called Await and then
	// ends well has not succeeded: the callback or the timeout ends it.
	Await func(ctx context.Context, timeout time.Duration) (Wait, error)

	// State is what the step has saved last, in another job or attempt; nil if it begins. Save saves it: it is durable once
	// it returns, and after ErrStale the step has ended and must leave nothing. A step that saves is a Dropper; one that has
	// more to do than fits into a job returns a *Continue.
	State json.RawMessage
	Save  func(ctx context.Context, state json.RawMessage) error

	// Output is set by a step that makes a file (COPY, DECRYPT): the file becomes ${previous.file}. Zero means that Source does
	// (AWS: after a step without a file of its own, the location that the step used as input).
	Output FileLocation
	// Outputs is set by a step that has something to tell in its result (TAG): a JSON object.
	Outputs string
}

// The values of SourceFileLocation.
const (
	OriginalFile = "${original.file}"
	PreviousFile = "${previous.file}"
)

// Name is the step's name, "" if it has none.
func (s StepSpec) Name() string {
	switch {
	case s.CopyStepDetails != nil:
		return s.CopyStepDetails.Name
	case s.TagStepDetails != nil:
		return s.TagStepDetails.Name
	case s.DeleteStepDetails != nil:
		return s.DeleteStepDetails.Name
	case s.CustomStepDetails != nil:
		return s.CustomStepDetails.Name
	case s.DecryptStepDetails != nil:
		return s.DecryptStepDetails.Name
	}
	return ""
}

// SourceFileLocation is which file the step reads, PreviousFile by default.
func (s StepSpec) SourceFileLocation() string {
	var source string
	switch {
	case s.CopyStepDetails != nil:
		source = s.CopyStepDetails.SourceFileLocation
	case s.TagStepDetails != nil:
		source = s.TagStepDetails.SourceFileLocation
	case s.DeleteStepDetails != nil:
		source = s.DeleteStepDetails.SourceFileLocation
	case s.CustomStepDetails != nil:
		source = s.CustomStepDetails.SourceFileLocation
	case s.DecryptStepDetails != nil:
		source = s.DecryptStepDetails.SourceFileLocation
	}
	if source == "" {
		return PreviousFile
	}
	return source
}

// IsZero tells whether it is no location at all.
func (l FileLocation) IsZero() bool { return l.S3FileLocation == nil && l.EfsFileLocation == nil }

// input is what the job's step of x gets.
func input(x Execution, job Job, spec StepSpec) (*Input, error) {
	in := &Input{
		Spec: spec, Original: x.InitialFileLocation, Previous: previous(x),
		Workflow: x.WorkflowId, Execution: x.ExecutionId, Trigger: x.Trigger, User: x.ServiceMetadata.UserDetails,
		UploadDate: x.Began.UTC(), Attempt: job.Attempt,
		// AWS: the execution's role, and on a file system the uploader's POSIX identity, which "controls your users' access"
		// (https://docs.aws.amazon.com/transfer/latest/APIReference/API_DescribedExecution.html).
		Identity: storage.Identity{Role: x.ExecutionRole, Session: string(x.ExecutionId), Posix: x.Posix},
	}
	if x.Progress != nil {
		in.State = x.Progress.State
	}
	if !x.Uploaded.IsZero() {
		in.UploadDate = x.Uploaded.UTC()
	}
	switch source := spec.SourceFileLocation(); source {
	case PreviousFile:
		in.Source = in.Previous
	case OriginalFile:
		in.Source = in.Original
	default:
		return nil, &StepError{Type: BadRequest, Message: "Unknown source file location " + source + "."}
	}
	return in, nil
}

// previous is what ${previous.file} means before the next step of x. In the exceptional phase it goes on from where the
// nominal steps stopped: it is the file that the last successful step left, and ${original.file} stays the upload.
func previous(x Execution) FileLocation {
	if x.Previous.IsZero() {
		return x.InitialFileLocation
	}
	return x.Previous
}

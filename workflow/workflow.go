// Package workflow holds what happens after the verdict: Workflow, Execution, and the engine that takes an execution
// from step to step. The steps themselves are in steps.
//
// It knows nothing of servers, protocols or databases: executions come to it as jobs of a queue, and what becomes of
// them goes out through one function that commits a step's result and the next job together. storage is all it touches.
package workflow

import (
	"time"

	"github.com/transferd/transferd/storage"
)

// ID is a workflow's id, w-([a-z0-9]{17}).
type ID string

// Workflow is a workflow as DescribeWorkflow shows it (shape DescribedWorkflow). Its steps never change.
type Workflow struct {
	Arn              string
	Description      string     `json:",omitempty"`
	Steps            []StepSpec `json:",omitempty"`
	OnExceptionSteps []StepSpec `json:",omitempty"`
	WorkflowId       ID
	Tags             []Tag `json:",omitempty"`

	// StructuredLogDestinations are kept and shown: the log goes where the daemon's goes.
	StructuredLogDestinations []string `json:",omitempty"`
}

// Tag is a key and a value.
type Tag struct {
	Key   string
	Value string
}

// StepSpec is one step of a workflow (shape WorkflowStep): Type names which of the details is set.
type StepSpec struct {
	Type               string              // COPY, TAG, DELETE, CUSTOM, DECRYPT
	CopyStepDetails    *CopyStepDetails    `json:",omitempty"`
	TagStepDetails     *TagStepDetails     `json:",omitempty"`
	DeleteStepDetails  *DeleteStepDetails  `json:",omitempty"`
	CustomStepDetails  *CustomStepDetails  `json:",omitempty"`
	DecryptStepDetails *DecryptStepDetails `json:",omitempty"`
}

// CopyStepDetails say where a file is copied to.
type CopyStepDetails struct {
	Name                    string             `json:",omitempty"`
	DestinationFileLocation *InputFileLocation `json:",omitempty"`
	OverwriteExisting       string             `json:",omitempty"` // TRUE or FALSE (default)
	SourceFileLocation      string             `json:",omitempty"` // ${original.file} or ${previous.file} (default)
}

// TagStepDetails say which tags a file gets.
type TagStepDetails struct {
	Name               string `json:",omitempty"`
	Tags               []Tag  `json:",omitempty"`
	SourceFileLocation string `json:",omitempty"`
}

// DeleteStepDetails say which file goes.
type DeleteStepDetails struct {
	Name               string `json:",omitempty"`
	SourceFileLocation string `json:",omitempty"`
}

// CustomStepDetails say which function is called with a file.
type CustomStepDetails struct {
	Name               string `json:",omitempty"`
	Target             string `json:",omitempty"` // a Lambda function's ARN
	TimeoutSeconds     int    `json:",omitempty"` // 1 to 1800; 0 is MaxTimeout
	SourceFileLocation string `json:",omitempty"`
}

// DecryptStepDetails say how a file is decrypted and where the plaintext goes.
type DecryptStepDetails struct {
	Name                    string             `json:",omitempty"`
	Type                    string             `json:",omitempty"` // PGP
	SourceFileLocation      string             `json:",omitempty"`
	OverwriteExisting       string             `json:",omitempty"` // TRUE or FALSE (default)
	DestinationFileLocation *InputFileLocation `json:",omitempty"`
}

// InputFileLocation is a location that a step writes to; Key may hold variables.
type InputFileLocation struct {
	S3FileLocation  *S3InputFileLocation `json:",omitempty"`
	EfsFileLocation *EfsFileLocation     `json:",omitempty"`
}

// S3InputFileLocation is a bucket and a key; a key that ends in a slash is a folder.
type S3InputFileLocation struct {
	Bucket string `json:",omitempty"`
	Key    string `json:",omitempty"`
}

// FileLocation is where a file lies.
type FileLocation struct {
	S3FileLocation  *S3FileLocation  `json:",omitempty"`
	EfsFileLocation *EfsFileLocation `json:",omitempty"`
	// EfsEtag tells a file on a file system from others at the same path; "" if nobody can. The API has no such member.
	EfsEtag string `json:",omitempty"`
}

// Shown is the location as the API shows it.
func (l FileLocation) Shown() FileLocation {
	l.EfsEtag = ""
	return l
}

// S3FileLocation is one version of one object.
type S3FileLocation struct {
	Bucket    string `json:",omitempty"`
	Key       string `json:",omitempty"`
	VersionId string `json:",omitempty"`
	Etag      string `json:",omitempty"`
}

// EfsFileLocation is a path on a file system.
type EfsFileLocation struct {
	FileSystemId string `json:",omitempty"`
	Path         string `json:",omitempty"`
}

// ExecutionID is an execution's id, a UUID. An execution that an upload caused has the upload's.
type ExecutionID string

// Status is an execution's status.
type Status string

// The statuses of an execution.
const (
	InProgress        Status = "IN_PROGRESS"
	Completed         Status = "COMPLETED"
	Exception         Status = "EXCEPTION"
	HandlingException Status = "HANDLING_EXCEPTION"
)

// Trigger is what started an execution.
type Trigger string

// The triggers.
const (
	OnUpload        Trigger = "OnUpload"
	OnPartialUpload Trigger = "OnPartialUpload"
)

// Execution is a workflow at work on one file, as DescribeExecution shows it (shape DescribedExecution), with what we
// keep beside it.
type Execution struct {
	ExecutionId         ExecutionID
	InitialFileLocation FileLocation
	ServiceMetadata     ServiceMetadata
	ExecutionRole       string `json:",omitempty"`
	// Posix is the uploader on a file system, which DescribeExecution shows as PosixProfile; nil on S3.
	Posix   *storage.Posix `json:",omitempty"`
	Status  Status
	Results Results

	// Beyond the API's members.
	WorkflowId ID
	Plan       Plan // the steps as they were when it began: the workflow may be deleted meanwhile
	Trigger    Trigger
	Evidence   string // why the upload's verdict was what it was
	Began      time.Time
	Ended      time.Time // zero while it runs
	// Previous is the file that the last finished step left, what ${previous.file} means.
	Previous FileLocation
	// Wait is set while the current step's function has been told, or is about to be, and has not called back.
	Wait *Wait `json:",omitempty"`
	// Progress is set while the current step has a state that it goes on with.
	Progress *Progress `json:",omitempty"`
	// RetryOf is the execution that this one does over again, "" for one that an upload caused.
	RetryOf ExecutionID `json:",omitempty"`
	// Uploaded is when the upload ended that a retried execution is about; zero means Began.
	Uploaded time.Time `json:",omitzero"`
}

// Plan is what an execution has to do.
type Plan struct {
	Steps            []StepSpec
	OnExceptionSteps []StepSpec `json:",omitempty"`
}

// ServiceMetadata says whose file it is.
type ServiceMetadata struct{ UserDetails UserDetails }

// UserDetails say who sent it.
type UserDetails struct {
	UserName  string
	ServerId  string
	SessionId string `json:",omitempty"`
}

// Results are the steps that ended, in order.
type Results struct {
	Steps            []StepResult `json:",omitempty"`
	OnExceptionSteps []StepResult `json:",omitempty"`
}

// StepResult is how one step ended (shape ExecutionStepResult, and when and in which attempt).
type StepResult struct {
	StepType string
	Outputs  string `json:",omitempty"`
	Error    *Error `json:",omitempty"`

	Attempt int // 1 for the first; more is a marked repeat
	Began   time.Time
	Ended   time.Time
}

// Error is a step's error (shape ExecutionError).
type Error struct {
	Type    ErrorType
	Message string
}

// ErrorType is one of the API's error types of a step.
type ErrorType string

// The types of a step's error.
const (
	AlreadyExists       ErrorType = "ALREADY_EXISTS"
	BadRequest          ErrorType = "BAD_REQUEST"
	CustomStepFailed    ErrorType = "CUSTOM_STEP_FAILED"
	InternalServerError ErrorType = "INTERNAL_SERVER_ERROR"
	NotFound            ErrorType = "NOT_FOUND"
	PermissionDenied    ErrorType = "PERMISSION_DENIED"
	StepTimeout         ErrorType = "TIMEOUT"
	Throttled           ErrorType = "THROTTLED"
)

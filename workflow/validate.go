package workflow

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// The types of steps that there are in the API.
const (
	TypeCopy    = "COPY"
	TypeTag     = "TAG"
	TypeDelete  = "DELETE"
	TypeCustom  = "CUSTOM"
	TypeDecrypt = "DECRYPT"
)

// NewID makes a fresh workflow id.
func NewID() ID { return ID("w-" + strings.ToLower(rand.Text()[:17])) }

// Validate says what about a workflow's steps cannot work, beyond the shapes that the API's model checks: "" in an
// optional member is as good as its absence. Its error is written for whoever sent the workflow.
func (w Workflow) Validate() error {
	if len(w.Steps) == 0 {
		return errors.New("a workflow needs at least one step in Steps")
	}
	for i, s := range w.Steps {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("step %d of Steps: %w", i+1, err)
		}
	}
	for i, s := range w.OnExceptionSteps {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("step %d of OnExceptionSteps: %w", i+1, err)
		}
	}
	return nil
}

// Validate checks one step.
func (s StepSpec) Validate() error {
	if err := s.onlyDetails(); err != nil {
		return err
	}
	switch s.SourceFileLocation() {
	case OriginalFile, PreviousFile:
	default:
		return fmt.Errorf("SourceFileLocation must be %s or %s", OriginalFile, PreviousFile)
	}
	switch s.Type {
	case TypeCopy:
		return destination(TypeCopy, s.CopyStepDetails.DestinationFileLocation)
	case TypeTag:
		return s.TagStepDetails.validate()
	case TypeCustom:
		return s.CustomStepDetails.validate()
	case TypeDecrypt:
		return s.DecryptStepDetails.validate()
	}
	return nil
}

// onlyDetails checks that the details of the step's type are there and no others.
func (s StepSpec) onlyDetails() error {
	details := map[string]bool{
		TypeCopy:    s.CopyStepDetails != nil,
		TypeTag:     s.TagStepDetails != nil,
		TypeDelete:  s.DeleteStepDetails != nil,
		TypeCustom:  s.CustomStepDetails != nil,
		TypeDecrypt: s.DecryptStepDetails != nil,
	}
	given, known := details[s.Type]
	switch {
	case !known:
		return fmt.Errorf("unknown step type %q", s.Type)
	case !given:
		return fmt.Errorf("a %s step needs its step details", s.Type)
	}
	delete(details, s.Type)
	for _, given := range details {
		if given {
			return fmt.Errorf("a %s step cannot have the step details of another type", s.Type)
		}
	}
	return nil
}

// destination checks where a step writes. AWS: "you need to provide the bucket and key"
// (https://docs.aws.amazon.com/transfer/latest/APIReference/API_S3InputFileLocation.html), and a file system with a path
// for EFS (https://docs.aws.amazon.com/transfer/latest/APIReference/API_InputFileLocation.html). Beyond AWS, which keeps
// COPY to S3, both may name either.
func destination(step string, to *InputFileLocation) error {
	const member = "DestinationFileLocation"
	switch {
	case to == nil || to.S3FileLocation == nil && to.EfsFileLocation == nil:
		return fmt.Errorf("a %s step needs %s.S3FileLocation or %s.EfsFileLocation", step, member, member)
	case to.S3FileLocation != nil && to.EfsFileLocation != nil:
		return fmt.Errorf("%s cannot have both S3FileLocation and EfsFileLocation", member)
	case to.EfsFileLocation != nil && (to.EfsFileLocation.FileSystemId == "" || to.EfsFileLocation.Path == ""):
		return fmt.Errorf("a %s step needs %s.EfsFileLocation.FileSystemId and Path", step, member)
	case to.EfsFileLocation != nil:
		return checkVariables(to.EfsFileLocation.Path)
	case to.S3FileLocation.Bucket == "":
		return fmt.Errorf("a %s step needs %s.S3FileLocation.Bucket", step, member)
	}
	if err := checkVariables(to.S3FileLocation.Bucket); err != nil {
		return err
	}
	return checkVariables(to.S3FileLocation.Key)
}

// validate: without a target there is nobody to call; the model says what a target looks like.
func (d *CustomStepDetails) validate() error {
	if d.Target == "" {
		return errors.New("a CUSTOM step needs Target")
	}
	if d.TimeoutSeconds < 0 || d.Timeout() > MaxTimeout {
		return fmt.Errorf("TimeoutSeconds must be from 1 to %d", int(MaxTimeout.Seconds()))
	}
	return nil
}

func (d *DecryptStepDetails) validate() error {
	if d.Type != "PGP" {
		return errors.New("a DECRYPT step needs the Type PGP")
	}
	return destination(TypeDecrypt, d.DestinationFileLocation)
}

func (d *TagStepDetails) validate() error {
	if len(d.Tags) == 0 {
		return errors.New("a TAG step needs at least one tag")
	}
	seen := map[string]bool{}
	for _, t := range d.Tags {
		if seen[t.Key] {
			return fmt.Errorf("tag key %q is given twice", t.Key)
		}
		seen[t.Key] = true
	}
	return nil
}

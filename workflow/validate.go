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
		return s.CopyStepDetails.validate()
	case TypeTag:
		return s.TagStepDetails.validate()
	}
	return nil
}

// onlyDetails checks that the details of the step's type are there and no others.
func (s StepSpec) onlyDetails() error {
	details := map[string]bool{
		TypeCopy:    s.CopyStepDetails != nil,
		TypeTag:     s.TagStepDetails != nil,
		TypeDelete:  s.DeleteStepDetails != nil,
		TypeCustom:  len(s.CustomStepDetails) > 0,
		TypeDecrypt: len(s.DecryptStepDetails) > 0,
	}
	given, known := details[s.Type]
	switch {
	case s.Type == TypeCustom, s.Type == TypeDecrypt:
		return fmt.Errorf("steps of type %s are not supported yet", s.Type)
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

// validate: AWS copies from S3 to S3 alone, and "you need to provide the bucket and key"
// (https://docs.aws.amazon.com/transfer/latest/APIReference/API_S3InputFileLocation.html).
func (d *CopyStepDetails) validate() error {
	to := d.DestinationFileLocation
	switch {
	case to != nil && to.EfsFileLocation != nil:
		return errors.New("a COPY step copies to Amazon S3 only: DestinationFileLocation cannot have EfsFileLocation")
	case to == nil || to.S3FileLocation == nil:
		return errors.New("a COPY step needs DestinationFileLocation.S3FileLocation")
	case to.S3FileLocation.Bucket == "":
		return errors.New("a COPY step needs DestinationFileLocation.S3FileLocation.Bucket")
	}
	if err := checkVariables(to.S3FileLocation.Bucket); err != nil {
		return err
	}
	return checkVariables(to.S3FileLocation.Key)
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

package workflow

import (
	"context"
	"errors"
)

// StepError is a step's error in the API's words. Message is shown to whoever may describe the execution, so it names
// files but quotes nothing that a store or another service said; that is what Err is for, which goes to the log.
type StepError struct {
	Type    ErrorType
	Message string
	Err     error // may be nil
	// Again says that another attempt may help although Type does not say so.
	Again bool
}

func (e *StepError) Error() string {
	text := string(e.Type) + ": " + e.Message
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

func (e *StepError) Unwrap() error { return e.Err }

// Retriable tells whether another attempt may help: after whatever went wrong on our side or on a store's, but not after
// what will be answered the same way again.
func Retriable(err error) bool {
	if errors.Is(err, ErrPermanent) {
		return false
	}
	if step, ok := errors.AsType[*StepError](err); ok && step.Again {
		return true
	}
	switch shown(err).Type {
	case InternalServerError, StepTimeout, Throttled:
		return true
	}
	return false
}

// shown is an error as an execution shows it.
func shown(err error) *Error {
	var step *StepError
	switch {
	case errors.As(err, &step):
		return &Error{Type: step.Type, Message: step.Message}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Type: StepTimeout, Message: "The step took too long."}
	}
	return &Error{Type: InternalServerError, Message: "An internal error occurred."}
}

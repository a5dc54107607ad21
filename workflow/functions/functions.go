// Package functions is who CUSTOM steps call: a Lambda endpoint, an HTTP URL, a command on this machine. Each is one
// attempt at one call; when to try again is the engine's to say, which counts attempts and marks repeats.
//
// It knows nothing of executions, queues or databases, and has no say in what a payload is. What a function answers is
// bounded before it is read, and goes to the log and never to whoever describes the execution.
package functions

import "github.com/transferd/transferd/workflow"

// maxAnswer is how much of an answer is read. Nothing in it counts but its beginning, for the log.
const maxAnswer = 64 << 10

// failed is a call that failed; again says that another attempt may help.
func failed(message string, again bool, err error) error {
	return &workflow.StepError{Type: workflow.CustomStepFailed, Message: message, Err: err, Again: again}
}

// Package awsjson is the wire of the control plane, AWS JSON 1.1: the operation is named in X-Amz-Target, requests and
// answers are JSON bodies, and an error is a JSON body that carries the name of its exception.
//
// It knows HTTP, and nothing of operations, constraints or signatures.
package awsjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxBody is the largest request body that is read, in bytes.
const MaxBody = 1 << 20

// ContentType is the media type of requests and answers.
const ContentType = "application/x-amz-json-1.1"

// Error is an answer that is no success: the name of the service's exception, its status, and a text for the caller.
// It is the only kind of error whose text a caller sees.
type Error struct {
	Type         string
	Status       int
	Message      string
	Resource     string // of ResourceNotFoundException and ResourceExistsException
	ResourceType string // of the same

	// RetryAfter is when a caller that was refused for its haste may come again. It is told in whole seconds, rounded up.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Type + ": " + e.Message }

// Errorf makes an error with status 400, which the API's reference gives to everything that is the caller's fault.
func Errorf(exception, format string, args ...any) *Error {
	return &Error{Type: exception, Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// Target reads the name of the operation from a request whose envelope is right: POST / with the prefix's target.
func Target(r *http.Request, prefix string) (string, error) {
	targets := r.Header.Values("X-Amz-Target")
	if len(targets) != 1 {
		return "", Errorf("UnknownOperationException", "The request must have exactly one X-Amz-Target header")
	}
	name, ok := strings.CutPrefix(targets[0], prefix+".")
	if !ok || name == "" {
		return "", Errorf("UnknownOperationException", "X-Amz-Target must be %s.<operation>", prefix)
	}
	return name, nil
}

// CheckEnvelope refuses what is no POST of JSON to the only path there is.
func CheckEnvelope(r *http.Request) error {
	switch {
	case r.URL.Path != "/":
		return &Error{Type: "UnknownOperationException", Status: http.StatusNotFound, Message: "The only path is /"}
	case r.Method != http.MethodPost:
		return &Error{Type: "UnknownOperationException", Status: http.StatusMethodNotAllowed, Message: "The only method is POST"}
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != ContentType {
		return Errorf("SerializationException", "Content-Type must be %s", ContentType)
	}
	return nil
}

// ReadBody reads the whole body, or refuses one that is too large without reading it all.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := &Error{
		Type:    "RequestEntityTooLargeException",
		Status:  http.StatusRequestEntityTooLarge,
		Message: "The request body is larger than " + strconv.Itoa(MaxBody) + " bytes",
	}
	if r.ContentLength > MaxBody {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge
	}
	if err != nil {
		return nil, Errorf("SerializationException", "The request body ends too early")
	}
	return body, nil
}

// WriteOutput answers success. Operations that answer nothing have an empty body.
func WriteOutput(w http.ResponseWriter, body []byte) error { return write(w, http.StatusOK, body) }

// WriteError answers an error. The exception's name stands in the body for botocore, which looks nowhere else, and in
// the header for the SDKs that look there first.
func WriteError(w http.ResponseWriter, e *Error) error {
	after := ""
	if e.RetryAfter > 0 {
		after = strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10)
		w.Header().Set("Retry-After", after)
	}
	body, err := json.Marshal(struct {
		Type         string `json:"__type"`
		Message      string
		Resource     string `json:",omitempty"`
		ResourceType string `json:",omitempty"`
		// A string in the model, ThrottlingException.
		RetryAfterSeconds string `json:",omitempty"`
	}{e.Type, e.Message, e.Resource, e.ResourceType, after})
	if err != nil {
		return fmt.Errorf("encode the error: %w", err)
	}
	if e.Status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	w.Header().Set("X-Amzn-ErrorType", e.Type)
	return write(w, e.Status, body)
}

func write(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

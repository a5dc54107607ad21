package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/transferd/transferd/storage"
)

// Error codes that are asked for by name.
const (
	codeNoSuchUpload   = "NoSuchUpload"
	codeBucketIsOurs   = "BucketAlreadyOwnedByYou"
	codeNotImplemented = "NotImplemented"
)

// failure turns whatever a request ended with into what storage promises. It is the only place that does.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func failure(op, name string, err error) error {
	kind := kindOf(err)
	if kind == nil {
		return fmt.Errorf("s3: %s %q: %w", op, name, err)
	}
	return fmt.Errorf("s3: %s %q: %w: %w", op, name, kind, err)
}

func kindOf(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil // ours, not the store's
	}
	switch errorCode(err) {
	case "NoSuchKey", "NoSuchBucket", codeNoSuchUpload, "NoSuchVersion", "NotFound", "PreconditionFailed":
		return fs.ErrNotExist
	case "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
		return fs.ErrPermission
	case "EntityTooLarge":
		return storage.ErrTooLarge
	case codeNotImplemented, "MethodNotAllowed":
		return errors.ErrUnsupported
	case "ExistingObjectIsDirectory": // versitygw and its like, where keys are files
		return storage.ErrIsDirectory
	}
	if retryable(err) {
		return storage.ErrUnavailable
	}
	switch status := statusOf(err); {
	case status == http.StatusNotFound, status == http.StatusPreconditionFailed:
		return fs.ErrNotExist
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fs.ErrPermission
	case status >= 500:
		return storage.ErrUnavailable
	case status >= 400:
		return fs.ErrInvalid
	}
	return nil
}

// errorCode is the store's name for the error, "" if it did not answer.
func errorCode(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

// statusOf is the HTTP status of the answer, 0 if there was none.
func statusOf(err error) int {
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		return answer.HTTPStatusCode()
	}
	return 0
}

// retryable reports whether the same request may well succeed a moment later: no connection, no or a broken answer,
// 5xx, throttling.
func retryable(err error) bool {
	if _, ok := errors.AsType[*smithy.DeserializationError](err); ok && statusOf(err) < 300 {
		return true // the answer was cut
	}
	return retry.IsErrorRetryables(append([]retry.IsErrorRetryable{outage{}}, retry.DefaultRetryables...)).
		IsErrorRetryable(err) == aws.TrueTernary
}

// outage retries what the SDK's own list leaves out: an attempt that got no answer within its own deadline, and a body
// that was cut.
type outage struct{}

// IsErrorRetryable makes it one of the SDK's classifiers.
func (outage) IsErrorRetryable(err error) aws.Ternary {
	if _, network := errors.AsType[*net.OpError](err); network ||
		errors.Is(err, errAttemptTimeout) || errors.Is(err, io.ErrUnexpectedEOF) {
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

// errAttemptTimeout stands for an attempt that got no answer in time.
var errAttemptTimeout = errors.New("no answer in time")

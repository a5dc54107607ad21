package functions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// Invoker is the part of the Lambda client that is needed.
type Invoker interface {
	Invoke(ctx context.Context, in *lambda.InvokeInput, opt ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// LambdaConfig says where a Lambda endpoint is.
type LambdaConfig struct {
	Endpoint    string // URL; "" is AWS's own for the region
	Region      string
	Credentials aws.CredentialsProvider
}

// NewLambda makes a client. It tries once: the engine counts attempts. Of a body it reads no more than is bounded, and
// what is cut off nobody would have read.
func NewLambda(cfg LambdaConfig) Invoker {
	o := lambda.Options{
		Region: cfg.Region, Credentials: cfg.Credentials, Retryer: aws.NopRetryer{},
		HTTPClient: &http.Client{Transport: bounded{NewClient().Transport}},
	}
	if cfg.Endpoint != "" {
		o.BaseEndpoint = aws.String(cfg.Endpoint)
	}
	return lambda.New(o)
}

// bounded cuts the bodies of answers.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxAnswer), res.Body}
	return res, nil
}

// Lambda invokes a function as AWS Transfer does: asynchronously (InvocationType Event), so that the answer comes by
// SendWorkflowStepState alone. With Respond it waits for the function's end (RequestResponse), which tells of errors that
// the function throws at once instead of by a timeout; the answer comes by SendWorkflowStepState all the same.
type Lambda struct {
	Client  Invoker
	ARN     string
	Respond bool
	// Timeout bounds one call. Default 30 seconds, and 15 minutes, the longest that a Lambda function runs, with Respond.
	Timeout time.Duration
}

var _ steps.Function = (*Lambda)(nil)

// Invoke calls the function once.
func (l *Lambda) Invoke(ctx context.Context, c steps.Call) error {
	kind, timeout := types.InvocationTypeEvent, 30*time.Second
	if l.Respond {
		kind, timeout = types.InvocationTypeRequestResponse, 15*time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.Timeout, timeout))
	defer cancel()
	out, err := l.Client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &l.ARN, InvocationType: kind, Payload: c.Payload})
	if err != nil {
		return explain(err)
	}
	if out.FunctionError != nil {
		begins := out.Payload[:min(len(out.Payload), 1024)]
		return failed("The Lambda function ended with an error.", false, fmt.Errorf("%s: %q", *out.FunctionError, begins))
	}
	return nil
}

// explain turns the SDK's errors into those of steps.
func explain(err error) error {
	var answered *smithyhttp.ResponseError
	if !errors.As(err, &answered) || answered.HTTPStatusCode() == 0 {
		return failed("The Lambda endpoint could not be reached.", true, err)
	}
	code := ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
	}
	status := answered.HTTPStatusCode()
	switch {
	case code == "ResourceNotFoundException":
		return failed("The Lambda function does not exist.", false, err)
	case code == "AccessDeniedException" || status == http.StatusForbidden || status == http.StatusUnauthorized:
		return &workflow.StepError{Type: workflow.PermissionDenied, Message: "Access to the Lambda function was denied.", Err: err}
	case code == "TooManyRequestsException" || status == http.StatusTooManyRequests:
		return &workflow.StepError{Type: workflow.Throttled, Message: "The Lambda function is called too often.", Err: err}
	}
	return failed(fmt.Sprintf("The Lambda endpoint answered with status %d.", status), status >= 500, err)
}

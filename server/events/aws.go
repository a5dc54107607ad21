package events

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Service is an AWS service that takes events, by the name that its signatures have.
type Service string

// The services.
const (
	SQS         Service = "sqs"
	SNS         Service = "sns"
	EventBridge Service = "events"
)

// AWS sends events to a queue, a topic or a bus of AWS, or of anything that speaks their API. It makes the calls itself,
// one for each event; what signs them is the SDK's.
type AWS struct {
	Service Service
	// Target is the queue's URL, the topic's ARN, or the bus's name or ARN.
	Target string
	// Endpoint is where the service is; empty: where AWS has it.
	Endpoint    string
	Region      string
	Credentials aws.CredentialsProvider
	Shape       Shape
	// Source is the Source of what goes to EventBridge: it refuses AWS's own, which begin with "aws.".
	Source  string
	Client  *http.Client
	Timeout time.Duration // of one call
	Now     func() time.Time
}

// Send is part of Sink.
func (a *AWS) Send(ctx context.Context, events []Event) (int, error) {
	for i, e := range events {
		if err := a.send(ctx, e); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func (a *AWS) send(ctx context.Context, e Event) error {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	switch a.Service {
	case SQS:
		return a.sqs(ctx, e)
	case SNS:
		return a.sns(ctx, e)
	case EventBridge:
		return a.eventBridge(ctx, e)
	}
	return fmt.Errorf("no such service: %s", a.Service)
}

// sqs is SendMessage. A FIFO queue keeps the order of messages of one group, and forgets a second one with the same
// deduplication id (Amazon SQS, "FIFO queue and message identifiers").
func (a *AWS) sqs(ctx context.Context, e Event) error {
	body, err := a.Shape.encode(e)
	if err != nil {
		return err
	}
	message := map[string]any{"QueueUrl": a.Target, "MessageBody": string(body)}
	if strings.HasSuffix(a.Target, ".fifo") {
		message["MessageGroupId"], message["MessageDeduplicationId"] = group(e), e.ID
	}
	_, err = a.json(ctx, "application/x-amz-json-1.0", "AmazonSQS.SendMessage", message)
	return err
}

// group names a place in the 128 characters that a MessageGroupId may have.
func group(e Event) string {
	sum := sha256.Sum256([]byte(e.key()))
	return hex.EncodeToString(sum[:])
}

// sns is Publish, in the query protocol.
func (a *AWS) sns(ctx context.Context, e Event) error {
	body, err := a.Shape.encode(e)
	if err != nil {
		return err
	}
	form := url.Values{"Action": {"Publish"}, "Version": {"2010-03-31"}, "TopicArn": {a.Target}, "Message": {string(body)}}
	if strings.HasSuffix(a.Target, ".fifo") {
		form.Set("MessageGroupId", group(e))
		form.Set("MessageDeduplicationId", e.ID)
	}
	_, err = a.call(ctx, "application/x-www-form-urlencoded; charset=utf-8", "", []byte(form.Encode()))
	return err
}

// eventBridge is PutEvents. EventBridge gives each entry an id of its own, so ours goes into the detail.
func (a *AWS) eventBridge(ctx context.Context, e Event) error {
	detail, err := marshal(struct {
		EventID string `json:"event-id"`
		Detail
	}{e.ID, e.Detail})
	if err != nil {
		return err
	}
	answer, err := a.json(ctx, "application/x-amz-json-1.1", "AWSEvents.PutEvents", map[string]any{"Entries": []map[string]any{{
		"Time": e.Time.Unix(), "Source": a.Source, "Resources": e.Resources, "DetailType": e.DetailType, "Detail": string(detail),
		"EventBusName": a.Target,
	}}})
	if err != nil {
		return err
	}
	var out struct {
		FailedEntryCount int
		Entries          []struct{ ErrorCode, ErrorMessage string }
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return fmt.Errorf("the answer of PutEvents: %w", err)
	}
	if out.FailedEntryCount == 0 {
		return nil
	}
	err = fmt.Errorf("PutEvents did not take the event: %v", out.Entries)
	if len(out.Entries) > 0 && refusedCode(out.Entries[0].ErrorCode) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// refusedCode says whether an error of AWS is about the event itself, so that another try will have the same answer: of SQS's
// SendMessage, SNS's Publish and EventBridge's PutEvents, with what is common to all of AWS. Everything else (throttling,
// credentials, a queue that is not there) somebody may see to.
func refusedCode(code string) bool {
	switch code[strings.LastIndexByte(code, '#')+1:] {
	case "InvalidMessageContents", "InvalidParameterValue", "InvalidParameterValueException", "InvalidParameter", "InvalidParameterException",
		"ParameterValueInvalid", "ValidationException", "ValidationError", "MalformedDetail", "InvalidArgument", "MessageTooLong":
		return true
	}
	return false
}

// errorCode is what an answer of AWS calls its error: in JSON (AWS JSON 1.0 and 1.1) or in XML (the query protocol).
func errorCode(body []byte) string {
	var j struct {
		Type string `json:"__type"`
	}
	if json.Unmarshal(body, &j) == nil {
		return j.Type
	}
	var x struct {
		Code string `xml:"Error>Code"`
	}
	if xml.Unmarshal(body, &x) != nil {
		return ""
	}
	return x.Code
}

func (a *AWS) json(ctx context.Context, contentType, target string, message any) ([]byte, error) {
	body, err := marshal(message)
	if err != nil {
		return nil, err
	}
	return a.call(ctx, contentType, target, body)
}

// call makes one signed request.
func (a *AWS) call(ctx context.Context, contentType, target string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.endpoint(), bytes.NewReader(body))
	if err != nil {
		return nil, plain(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "transferd")
	if target != "" {
		req.Header.Set("X-Amz-Target", target)
	}
	keys, err := a.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, keys, req, hex.EncodeToString(sum[:]), string(a.Service), a.Region, a.Now()); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	answer, err := do(a.Client, req)
	var status *statusError
	if errors.As(err, &status) && (status.status == http.StatusRequestEntityTooLarge || refusedCode(errorCode(status.body))) {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return answer, err
}

// endpoint is where the calls go. A queue's URL tells by itself.
func (a *AWS) endpoint() string {
	if a.Endpoint != "" {
		return a.Endpoint
	}
	if u, err := url.Parse(a.Target); a.Service == SQS && err == nil && u.Host != "" {
		return u.Scheme + "://" + u.Host + "/"
	}
	return "https://" + string(a.Service) + "." + a.Region + ".amazonaws.com/"
}

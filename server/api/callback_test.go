package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/workflow"
)

// waiting is an engine whose executions wait for callbacks, by token.
type waiting map[string]bool

func (w waiting) Callback(_ context.Context, flow workflow.ID, e workflow.ExecutionID, token string, success bool) error {
	if token == "broken" {
		return errors.New("disk /var/lib/secret is full")
	}
	if _, there := w[token]; !there {
		return fmt.Errorf("callback to %s of %s: %w", e, flow, workflow.ErrNoCallback)
	}
	w[token] = success
	return nil
}

func TestSendWorkflowStepState(t *testing.T) {
	t.Parallel()
	engine := waiting{"good": false, "bad": true}
	w := newWorld(t, func(c *api.Config) { c.Callbacks = engine })
	flow := w.newWorkflow(t)
	e := w.execution(flow, w.newServer(t), 1, false)
	send := func(token string, status types.CustomStepStatus) error {
		_, err := w.sdk.SendWorkflowStepState(t.Context(), &transfer.SendWorkflowStepStateInput{
			WorkflowId: &flow, ExecutionId: aws.String(strings.ToUpper(string(e.ExecutionId))), Token: &token, Status: status,
		})
		return err
	}
	if err := send("good", types.CustomStepStatusSuccess); err != nil || !engine["good"] {
		t.Errorf("SUCCESS: %v, %v", err, engine)
	}
	// The workflow may go while its execution runs.
	if _, err := w.sdk.DeleteWorkflow(t.Context(), &transfer.DeleteWorkflowInput{WorkflowId: &flow}); err != nil {
		t.Fatal(err)
	}
	if err := send("bad", types.CustomStepStatusFailure); err != nil || engine["bad"] {
		t.Errorf("FAILURE: %v, %v", err, engine)
	}
	refusal(t, send("unknown", types.CustomStepStatusSuccess), "InvalidRequestException", "waits for no callback")
	refusal(t, send("broken", types.CustomStepStatusSuccess), "InternalServiceError")
}

func TestSendWorkflowStepStateRefusals(t *testing.T) {
	t.Parallel()
	without := newWorld(t)
	with := newWorld(t, func(c *api.Config) { c.Callbacks = waiting{"token": false} })
	for _, w := range []*world{without, with} {
		flow, other, id := w.newWorkflow(t), w.newWorkflow(t), w.newServer(t)
		running, ended := w.execution(flow, id, 1, false), w.execution(flow, id, 2, true)
		send := func(flow string, e workflow.ExecutionID, more string) answer {
			t.Helper()
			return w.call(t, "SendWorkflowStepState", `{"WorkflowId":"`+flow+`","ExecutionId":"`+string(e)+`",`+more+`}`)
		}
		const good = `"Token":"token","Status":"SUCCESS"`
		const unknown = "01234567-89ab-cdef-0123-456789abcdef"
		send(flow, unknown, good).refused(t, 400, "ResourceNotFoundException", "Unknown execution "+unknown)
		send(other, running.ExecutionId, good).refused(t, 400, "ResourceNotFoundException", "Unknown execution "+string(running.ExecutionId))
		send("w-0123456789abcdef0", running.ExecutionId, good).refused(t, 400, "ResourceNotFoundException", "Unknown workflow w-0123456789abcdef0")
		send(flow, ended.ExecutionId, good).refused(t, 400, "InvalidRequestException", string(ended.ExecutionId)+" waits for no callback")
		send(flow, running.ExecutionId, `"Token":"","Status":"SUCCESS"`).refused(t, 400, "ValidationException", "'token'")
		send(flow, running.ExecutionId, `"Token":"a=","Status":"SUCCESS"`).refused(t, 400, "ValidationException", "'token'")
		send(flow, running.ExecutionId, `"Token":"token","Status":"DONE"`).refused(t, 400, "ValidationException", "[SUCCESS, FAILURE]")
		if w == without {
			send(flow, running.ExecutionId, good).refused(t, 400, "InvalidRequestException", string(running.ExecutionId)+" waits for no callback")
		} else if a := send(flow, running.ExecutionId, good); a.Status != 200 || a.Body != `{}` {
			t.Errorf("got %+v", a)
		}
	}
}

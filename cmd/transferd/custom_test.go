package main

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/workflow/functions"
)

const (
	functionARN    = "arn:aws:lambda:us-east-1:000000000000:function:"
	functionSecret = "a secret of both sides"
)

// call is what a function was told.
type call struct {
	Token           string
	ServiceMetadata struct {
		ExecutionDetails struct{ WorkflowID, ExecutionID string }
		TransferDetails  struct{ SessionID, UserName, ServerID string }
	}
	FileLocation struct{ Domain, Bucket, Key, ETag, Path string }

	body      string
	attempt   int
	signature string
}

// receiver is the far side of CUSTOM steps: a function behind an HTTPS URL, and a Lambda endpoint.
type receiver struct {
	*httptest.Server
	t      *testing.T
	answer func(c call, w http.ResponseWriter) // nil: 200

	mu    sync.Mutex
	calls []call
}

func newReceiver(t *testing.T, answer func(call, http.ResponseWriter)) *receiver {
	r := &receiver{t: t, answer: answer}
	r.Server = httptest.NewTLSServer(r)
	r.Config.ErrorLog = nil
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the daemon died
	}
	c := call{body: string(body), signature: req.Header.Get(functions.SignatureHeader)}
	if err := json.Unmarshal(body, &c); err != nil {
		r.t.Errorf("the payload is no JSON: %v: %s", err, body)
	}
	if a := req.Header.Get(functions.AttemptHeader); a != "" {
		if c.attempt, err = strconv.Atoi(a); err != nil || req.Header.Get(functions.ExecutionHeader) != c.ServiceMetadata.ExecutionDetails.ExecutionID {
			r.t.Errorf("headers %v", req.Header)
		}
	}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(c, w)
	}
}

// of are the calls about a file.
func (r *receiver) of(key string) []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []call
	for _, c := range r.calls {
		if c.FileLocation.Key == key {
			found = append(found, c)
		}
	}
	return found
}

func (r *receiver) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// certificate writes the receiver's certificate for SSL_CERT_FILE.
func (r *receiver) certificate() string {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "receiver.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	if err := os.WriteFile(name, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return name
}

// startCustom starts a daemon whose functions are: url and lambda, the receiver; command, a script that fails for names
// that begin with "bad" and takes for ever for those with "slow"; dead, nobody.
func startCustom(t *testing.T, r *receiver, opt startOptions) *proc {
	t.Helper()
	opt.args = append(opt.args, "-functions", functionsOf(t, r))
	opt.env = append(opt.env, "SSL_CERT_FILE="+r.certificate())
	return startDaemon(t, opt)
}

const commandScript = `#!/bin/sh
payload=$(cat)
case $payload in
*'"key":"bad'* | *'"key":"kept/bad'*) echo "secret words" >&2; exit 3 ;; # an id may have "bad" in it
*'"key":"slow'*) sleep 1000 ;;
esac
[ -z "$HOME" ] && [ "$ONLY" = this ] && [ -n "$TRANSFERD_ATTEMPT" ]
`

func functionsOf(t *testing.T, r *receiver) string {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "command.sh")
	if err := os.WriteFile(script, []byte(commandScript), 0o700); err != nil {
		t.Fatal(err)
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	dead := closed.URL
	closed.Close()
	quote := strconv.Quote
	text := "functions:\n"
	for name, value := range map[string]string{
		"url":     "{url: " + quote(r.URL+"/hook") + ", secret: " + quote(functionSecret) + "}",
		"lambda":  "{lambda: {endpoint: " + quote(r.URL) + ", region: us-east-1, access_key: a, secret_key: b}}",
		"command": "{command: [" + quote(script) + "], env: {ONLY: this, PATH: /usr/bin:/bin}}",
		"dead":    "{url: " + quote(dead) + ", secret: x}",
	} {
		text += "  " + functionARN + name + ": " + value + "\n"
	}
	name := filepath.Join(dir, "functions.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func customStep(name, function string, seconds int) types.WorkflowStep {
	d := &types.CustomStepDetails{Name: aws.String(name), Target: aws.String(functionARN + function)}
	if seconds > 0 {
		d.TimeoutSeconds = aws.Int32(int32(seconds))
	}
	return types.WorkflowStep{Type: types.WorkflowStepTypeCustom, CustomStepDetails: d}
}

func tagStep(name string) types.WorkflowStep {
	return types.WorkflowStep{Type: types.WorkflowStepTypeTag, TagStepDetails: &types.TagStepDetails{
		Name: aws.String(name), Tags: []types.S3Tag{{Key: aws.String("by"), Value: aws.String(name)}}}}
}

// attach makes a workflow with a handler that tags, and attaches it to the dev server for whole files.
func (p *proc) attach(steps ...types.WorkflowStep) string {
	p.t.Helper()
	out, err := p.api().CreateWorkflow(p.t.Context(), &transfer.CreateWorkflowInput{Steps: steps, OnExceptionSteps: []types.WorkflowStep{tagStep("handler")}})
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = p.api().UpdateServer(p.t.Context(), &transfer.UpdateServerInput{
		ServerId: aws.String(p.env["SERVER_ID"]), WorkflowDetails: &types.WorkflowDetails{OnUpload: []types.WorkflowDetail{{
			WorkflowId: out.WorkflowId, ExecutionRole: aws.String("arn:aws:iam::000000000000:role/workflow")}}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return *out.WorkflowId
}

// put uploads a small file over a session of its own. What becomes of it is the test's matter when the daemon may die.
func (p *proc) put(name string) error {
	conn, client, err := p.tryDial()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := client.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte("content of " + name)); err != nil {
		return err
	}
	return f.Close()
}

func (p *proc) mustPut(name string) {
	p.t.Helper()
	if err := p.put(name); err != nil {
		p.t.Fatal(err)
	}
}

// send answers a call through the real API.
func (p *proc) send(ctx context.Context, c call, token string, status types.CustomStepStatus) error {
	_, err := p.api().SendWorkflowStepState(ctx, &transfer.SendWorkflowStepStateInput{
		WorkflowId: &c.ServiceMetadata.ExecutionDetails.WorkflowID, ExecutionId: &c.ServiceMetadata.ExecutionDetails.ExecutionID,
		Token: &token, Status: status,
	})
	return err
}

// awaitCall waits until the receiver was told of a file so many times, and returns the last call.
func (p *proc) awaitCall(r *receiver, key string, times int) call {
	p.t.Helper()
	var calls []call
	p.await(fmt.Sprintf("call %d about %s", times, key), func() bool {
		calls = r.of(key)
		return len(calls) >= times
	})
	return calls[times-1]
}

// shown are the results as DescribeExecution shows them: "CUSTOM ok, TAG NOT_FOUND | TAG ok".
func shown(e *types.DescribedExecution) string {
	words := func(steps []types.ExecutionStepResult) string {
		var all []string
		for _, s := range steps {
			word := "ok"
			if s.Error != nil {
				word = string(s.Error.Type)
			}
			all = append(all, string(s.StepType)+" "+word)
		}
		return strings.Join(all, ", ")
	}
	if e.Results == nil {
		return ""
	}
	return strings.Trim(words(e.Results.Steps)+" | "+words(e.Results.OnExceptionSteps), " |")
}

func message(e *types.DescribedExecution) string {
	if last := e.Results.Steps[len(e.Results.Steps)-1]; last.Error != nil {
		return aws.ToString(last.Error.Message)
	}
	return ""
}

// TestCustomCallback is the life of a CUSTOM step with a URL: the payload, its signature, and the answers of the real aws
// CLI, wanted and unwanted.
func TestCustomCallback(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, nil)
	p := startCustom(t, r, startOptions{})
	flow := p.attach(customStep("ask", "url", 0), tagStep("asked"))
	p.mustPut("good.txt")
	p.mustPut("other.txt")
	c, other := p.awaitCall(r, "good.txt", 1), p.awaitCall(r, "other.txt", 1)
	p.checkPayload(c, flow)
	state := func(c call, token, status string) []string {
		return []string{"send-workflow-step-state", "--workflow-id", flow, "--execution-id", c.ServiceMetadata.ExecutionDetails.ExecutionID,
			"--token", token, "--status", status}
	}
	const refused = "InvalidRequestException.*waits for no callback"
	p.refused(refused, state(c, "forged", "SUCCESS")...)
	p.refused(refused, state(c, other.Token, "SUCCESS")...) // somebody else's
	unknown := c
	unknown.ServiceMetadata.ExecutionDetails.ExecutionID = "01234567-89ab-cdef-0123-456789abcdef"
	p.refused("ResourceNotFoundException.*Unknown execution", state(unknown, c.Token, "SUCCESS")...)
	if e := p.executions(flow, "good.txt"); len(e) != 1 || e[0].Status != types.ExecutionStatusInProgress || shown(e[0]) != "" {
		t.Errorf("refused callbacks changed something: %+v", e)
	}
	if out := p.aws(state(c, c.Token, "SUCCESS")...); len(out) != 0 {
		t.Errorf("the answer to a callback is %v", out)
	}
	p.refused(refused, state(c, c.Token, "FAILURE")...) // doubled
	if e := p.awaitExecution(flow, "good.txt"); e.Status != types.ExecutionStatusCompleted || shown(e) != "CUSTOM ok, TAG ok" {
		t.Errorf("after SUCCESS: %s, %s", e.Status, shown(e))
	}
	p.refused(refused, state(c, c.Token, "SUCCESS")...) // late
	p.aws(state(other, other.Token, "FAILURE")...)
	if e := p.awaitExecution(flow, "other.txt"); e.Status != types.ExecutionStatusException || shown(e) != "CUSTOM CUSTOM_STEP_FAILED | TAG ok" {
		t.Errorf("after FAILURE: %s, %s", e.Status, shown(e))
	}
	if n := len(r.of("good.txt")) + len(r.of("other.txt")); n != 2 {
		t.Errorf("%d calls for two files", n)
	}
}

// checkPayload compares a payload with AWS's, and its signature with our own computation.
func (p *proc) checkPayload(c call, flow string) {
	p.t.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(c.body), &got); err != nil {
		p.t.Fatal(err)
	}
	e := p.executions(flow, c.FileLocation.Key)[0]
	at := e.InitialFileLocation.S3FileLocation
	type obj = map[string]any
	location := obj{"domain": "S3", "bucket": devBucket, "key": *at.Key, "eTag": *at.Etag, "versionId": nil}
	want := obj{"token": c.Token, "serviceMetadata": obj{
		"executionDetails": obj{"workflowId": flow, "executionId": *e.ExecutionId},
		"transferDetails": obj{"sessionId": *e.ServiceMetadata.UserDetails.SessionId, "userName": p.env["SFTP_USER"],
			"serverId": p.env["SERVER_ID"]},
	}, "fileLocation": location}
	if v := aws.ToString(at.VersionId); v != "" {
		location["versionId"] = v
	}
	if !reflect.DeepEqual(got, want) {
		p.t.Errorf("payload\n%v, want\n%v", got, want)
	}
	stamp, _, _ := strings.Cut(strings.TrimPrefix(c.signature, "t="), ",")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		p.t.Fatalf("signature %q: %v", c.signature, err)
	}
	signed := time.Unix(seconds, 0)
	if right := functions.Sign([]byte(functionSecret), signed, []byte(c.body)); !hmac.Equal([]byte(right), []byte(c.signature)) {
		p.t.Errorf("signature %s, want %s", c.signature, right)
	}
	if age := time.Since(signed); age < -time.Minute || age > 2*patience {
		p.t.Errorf("signed %v ago", age)
	}
	if c.attempt != 1 {
		p.t.Errorf("attempt %d", c.attempt)
	}
}

// TestCustomOutcomes: how functions of every kind end, and how that shows.
func TestCustomOutcomes(t *testing.T) {
	t.Parallel()
	var p *proc
	ready := make(chan struct{})
	r := newReceiver(t, func(c call, w http.ResponseWriter) {
		<-ready
		switch name, _, _ := strings.Cut(c.FileLocation.Key, "."); name {
		case "early": // the callback comes before the answer to the call
			if err := p.send(context.WithoutCancel(t.Context()), c, c.Token, types.CustomStepStatusSuccess); err != nil {
				t.Error(err)
			}
		case "refused":
			http.Error(w, "secret words", http.StatusForbidden)
		case "moved":
			w.Header().Set("Location", "https://example.com/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "broken":
			w.WriteHeader(http.StatusBadGateway)
		case "endless": // not JSON, and 100 MB of it, which nobody reads; then nothing
			w.WriteHeader(http.StatusOK)
			for range 100 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		case "thrown":
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			_, _ = w.Write([]byte(`{"errorMessage":"secret words"}`))
		case "nobody":
			w.Header().Set("X-Amzn-ErrorType", "ResourceNotFoundException")
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"Type":"User","Message":"secret words"}`))
		}
	})
	p = startCustom(t, r, startOptions{})
	close(ready)
	// On a busy machine it may be the call already for which the time is too short.
	const late, notEven = "The function did not call back in time.", "The function could not be called in time."
	cases := []struct {
		name, function string
		seconds        int
		want, message  string
	}{
		{"early", "url", 0, "CUSTOM ok", ""},
		{"silent", "url", 5, "CUSTOM TIMEOUT | TAG ok", late},
		{"refused", "url", 0, "CUSTOM CUSTOM_STEP_FAILED | TAG ok", "The function's URL answered with status 403."},
		{"moved", "url", 0, "CUSTOM CUSTOM_STEP_FAILED | TAG ok", "The function's URL answered with status 307."},
		{"broken", "url", 2, "CUSTOM TIMEOUT | TAG ok", notEven},
		{"endless", "url", 5, "CUSTOM TIMEOUT | TAG ok", late},
		{"unreachable", "dead", 2, "CUSTOM TIMEOUT | TAG ok", notEven},
		{"early.lambda", "lambda", 0, "CUSTOM ok", ""},
		{"silent.lambda", "lambda", 5, "CUSTOM TIMEOUT | TAG ok", late},
		{"thrown", "lambda", 0, "CUSTOM CUSTOM_STEP_FAILED | TAG ok", "The Lambda function ended with an error."},
		{"nobody", "lambda", 0, "CUSTOM CUSTOM_STEP_FAILED | TAG ok", "The Lambda function does not exist."},
		{"fine", "command", 0, "CUSTOM ok", ""},
		{"bad", "command", 0, "CUSTOM CUSTOM_STEP_FAILED | TAG ok", "The command ended with exit status 3."},
		{"slow", "command", 1, "CUSTOM TIMEOUT | TAG ok", "The function took longer than 1s."},
		{"missing", "unknown", 0, "CUSTOM BAD_REQUEST | TAG ok", "No function is configured for " + functionARN + "unknown."},
	}
	flows := map[string]string{}
	for _, c := range cases {
		flows[c.name] = p.attach(customStep("ask", c.function, c.seconds))
		p.mustPut(c.name + ".txt")
	}
	for _, c := range cases {
		e := p.awaitExecution(flows[c.name], c.name+".txt")
		if got := shown(e); got != c.want || message(e) != c.message && (c.message != late || message(e) != notEven) {
			t.Errorf("%s: %s (%s), want %s (%s)", c.name, got, message(e), c.want, c.message)
		}
	}
	for _, name := range []string{"silent", "silent.lambda"} {
		told := r.of(name + ".txt")
		if len(told) == 0 {
			continue // see above
		}
		if err := p.send(t.Context(), told[0], told[0].Token, types.CustomStepStatusSuccess); err == nil || !strings.Contains(err.Error(), "InvalidRequestException") {
			t.Errorf("%s: a late callback: %v", name, err)
		}
	}
}

// TestCustomCrashPoints kills the daemon between each two transactions of a CUSTOM step.
func TestCustomCrashPoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		point string
		calls int // how often the function is told in all
	}{
		{crashAfterAwait, 1}, {crashAfterInvoke, 2}, {crashAfterCalled, 1},
	} {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, nil)
			first := startCustom(t, r, startOptions{})
			flow := first.attach(customStep("ask", "url", 0), tagStep("asked"))
			first.stop()
			dying := startCustom(t, r, startOptions{data: first.data, crash: c.point})
			dying.mustPut("crash.txt")
			if err := dying.awaitEnd(); !killed(err) {
				t.Fatalf("the daemon ended with %v, not by its own kill", err)
			}
			p := startCustom(t, r, startOptions{data: first.data})
			told := p.awaitCall(r, "crash.txt", c.calls)
			if err := p.send(t.Context(), told, r.of("crash.txt")[0].Token, types.CustomStepStatusSuccess); err != nil {
				t.Fatalf("the token of the first call: %v", err)
			}
			e := p.awaitExecution(flow, "crash.txt")
			if got := shown(e); got != "CUSTOM ok, TAG ok" || e.Status != types.ExecutionStatusCompleted {
				t.Errorf("%s, %s", e.Status, got)
			}
			calls := r.of("crash.txt")
			for i, got := range calls {
				repeat := c.point != crashAfterCalled && i == len(calls)-1
				if got.Token != calls[0].Token || (got.attempt > 1) != repeat {
					t.Errorf("call %d of %d: attempt %d", i+1, len(calls), got.attempt)
				}
			}
			if len(calls) != c.calls {
				t.Errorf("%d calls, want %d", len(calls), c.calls)
			}
			if _, unmarked := repeats(p.stepStarts()[aws.ToString(e.ExecutionId)]); unmarked != 0 {
				t.Errorf("%d repeats without a mark", unmarked)
			}
		})
	}
}

package acceptance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"github.com/aws/smithy-go"
)

// request is one request of the table, for whichever client.
type request struct {
	Kind      string         // call, wait or pages
	Operation string         // of the API; of a wait ServerOnline or ServerOffline
	Params    map[string]any // the API's members
	Key       string         // access key id
	Secret    string
	Size      int // of a page
}

// reply is what a client made of the answer.
type reply struct {
	Output  map[string]any   // of a call
	Pages   []map[string]any // of pages
	Error   string           // the exception's name; Waiter if waiting failed
	Message string
	Details map[string]string // what an exception has beside its message
	Refused string            // why the client did not send the request
}

// client is a tool that speaks to the control plane.
type client interface {
	do(t testing.TB, r request) reply
}

// goClient is the AWS SDK for Go.
type goClient struct{ world *world }

func (c goClient) do(t testing.TB, r request) reply {
	t.Helper()
	sdk := c.world.signed(r.Key, r.Secret)
	switch r.Kind {
	case "wait":
		return c.wait(t, sdk, r)
	case "pages":
		return c.pages(t, sdk, r)
	}
	method := reflect.ValueOf(sdk).MethodByName(r.Operation)
	input := reflect.New(method.Type().In(1).Elem())
	if app, union := input.Interface().(*transfer.CreateWebAppInput); union { // JSON cannot fill it
		app.IdentityProviderDetails = &types.WebAppIdentityProviderDetailsMemberIdentityCenterConfig{}
	} else if err := decode(r.Params, input.Interface()); err != nil {
		return reply{Refused: err.Error()}
	}
	out := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), input})
	if err, _ := out[1].Interface().(error); err != nil {
		return failure(err)
	}
	return reply{Output: encode(t, out[0].Interface())}
}

func (c goClient) wait(t testing.TB, sdk *transfer.Client, r request) reply {
	t.Helper()
	var in transfer.DescribeServerInput
	if err := decode(r.Params, &in); err != nil {
		t.Fatal(err)
	}
	var err error
	switch r.Operation {
	case "ServerOnline":
		err = transfer.NewServerOnlineWaiter(sdk).Wait(t.Context(), &in, time.Minute, func(o *transfer.ServerOnlineWaiterOptions) {
			o.MinDelay, o.MaxDelay = 10*time.Millisecond, 50*time.Millisecond
		})
	case "ServerOffline":
		err = transfer.NewServerOfflineWaiter(sdk).Wait(t.Context(), &in, time.Minute, func(o *transfer.ServerOfflineWaiterOptions) {
			o.MinDelay, o.MaxDelay = 10*time.Millisecond, 50*time.Millisecond
		})
	default:
		t.Fatalf("there is no waiter %s", r.Operation)
	}
	if err == nil {
		return reply{}
	}
	if f := failure(err); f.Error != "" {
		return f
	}
	return reply{Error: "Waiter", Message: err.Error()}
}

// pages gets a whole list with the SDK's paginator.
func (c goClient) pages(t testing.TB, sdk *transfer.Client, r request) reply {
	t.Helper()
	size := int32(r.Size)
	switch r.Operation {
	case "ListAccesses":
		return turn(t, transfer.NewListAccessesPaginator(sdk, input[transfer.ListAccessesInput](t, r), func(o *transfer.ListAccessesPaginatorOptions) { o.Limit = size }))
	case "ListExecutions":
		return turn(t, transfer.NewListExecutionsPaginator(sdk, input[transfer.ListExecutionsInput](t, r), func(o *transfer.ListExecutionsPaginatorOptions) { o.Limit = size }))
	case "ListHostKeys": // the SDK has no paginator for it
		return turn(t, &byHand{sdk: sdk, in: input[transfer.ListHostKeysInput](t, r), size: size})
	case "ListSecurityPolicies":
		return turn(t, transfer.NewListSecurityPoliciesPaginator(sdk, input[transfer.ListSecurityPoliciesInput](t, r), func(o *transfer.ListSecurityPoliciesPaginatorOptions) { o.Limit = size }))
	case "ListServers":
		return turn(t, transfer.NewListServersPaginator(sdk, input[transfer.ListServersInput](t, r), func(o *transfer.ListServersPaginatorOptions) { o.Limit = size }))
	case "ListTagsForResource":
		return turn(t, transfer.NewListTagsForResourcePaginator(sdk, input[transfer.ListTagsForResourceInput](t, r), func(o *transfer.ListTagsForResourcePaginatorOptions) { o.Limit = size }))
	case "ListUsers":
		return turn(t, transfer.NewListUsersPaginator(sdk, input[transfer.ListUsersInput](t, r), func(o *transfer.ListUsersPaginatorOptions) { o.Limit = size }))
	case "ListWorkflows":
		return turn(t, transfer.NewListWorkflowsPaginator(sdk, input[transfer.ListWorkflowsInput](t, r), func(o *transfer.ListWorkflowsPaginatorOptions) { o.Limit = size }))
	}
	t.Fatalf("there is no list %s", r.Operation)
	return reply{}
}

func input[T any](t testing.TB, r request) *T {
	t.Helper()
	in := new(T)
	if err := decode(r.Params, in); err != nil {
		t.Fatal(err)
	}
	return in
}

// pager is any of the SDK's paginators.
type pager[O any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, o ...func(*transfer.Options)) (*O, error)
}

func turn[O any](t testing.TB, p pager[O]) reply {
	t.Helper()
	var r reply
	for p.HasMorePages() {
		out, err := p.NextPage(t.Context())
		if err != nil {
			return failure(err)
		}
		r.Pages = append(r.Pages, encode(t, out))
	}
	return r
}

// byHand pages through host keys.
type byHand struct {
	sdk  *transfer.Client
	in   *transfer.ListHostKeysInput
	size int32
	last bool
}

func (p *byHand) HasMorePages() bool { return !p.last }

func (p *byHand) NextPage(ctx context.Context, o ...func(*transfer.Options)) (*transfer.ListHostKeysOutput, error) {
	p.in.MaxResults = &p.size
	out, err := p.sdk.ListHostKeys(ctx, p.in, o...)
	if err == nil {
		p.in.NextToken = out.NextToken
		p.last = out.NextToken == nil
	}
	return out, err
}

// failure is what the SDK makes of an error: a typed exception, a generic one, or a request that it never sent.
func failure(err error) reply {
	invalid, unsent := errors.AsType[smithy.InvalidParamsError](err)
	if unsent {
		return reply{Refused: invalid.Error()}
	}
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return reply{Message: err.Error()}
	}
	r := reply{Error: e.ErrorCode(), Message: e.ErrorMessage(), Details: map[string]string{}}
	add := func(name string, value *string) {
		if value != nil {
			r.Details[name] = *value
		}
	}
	if missing, ok := errors.AsType[*types.ResourceNotFoundException](err); ok {
		add("Resource", missing.Resource)
		add("ResourceType", missing.ResourceType)
	}
	if exists, ok := errors.AsType[*types.ResourceExistsException](err); ok {
		add("Resource", exists.Resource)
		add("ResourceType", exists.ResourceType)
	}
	if throttled, ok := errors.AsType[*types.ThrottlingException](err); ok {
		add("RetryAfterSeconds", throttled.RetryAfterSeconds)
	}
	return r
}

// decode fills an SDK's input. A member that the SDK does not know is an error.
func decode(params map[string]any, into any) error {
	b, err := json.Marshal(params)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// encode makes of an SDK's output what was on the wire: no absent members, and none that the SDK adds.
func encode(t testing.TB, output any) map[string]any {
	t.Helper()
	b, err := json.Marshal(output)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "ResultMetadata")
	return m
}

// pyClient is boto3 in a Python that lives as long as the test: a request is a line, its reply another.
type pyClient struct {
	mu  sync.Mutex // one request at a time
	in  *json.Encoder
	out *bufio.Scanner
	err *bytes.Buffer // readable once out has ended
}

func (c *pyClient) do(t testing.TB, r request) reply {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.in.Encode(r); err != nil {
		t.Fatal(err)
	}
	if !c.out.Scan() {
		t.Fatalf("python has ended: %v\n%s", c.out.Err(), c.err)
	}
	var answer reply
	if err := json.Unmarshal(c.out.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// python starts boto3 for a world.
func python(t testing.TB, interpreter string, w *world) *pyClient {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), interpreter, "testdata/operations.py", w.url, region)
	c := &pyClient{err: &bytes.Buffer{}}
	cmd.Stderr = c.err
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Errorf("python: %v\n%s", err, c.err)
		}
	})
	c.in, c.out = json.NewEncoder(stdin), bufio.NewScanner(stdout)
	c.out.Buffer(nil, 16<<20)
	return c
}

// interpreters are the Pythons of this machine that have boto3, each version of botocore once: Debian's, which is years
// old, and the one in PATH.
func interpreters(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	var tried []string
	for _, p := range []string{"/usr/bin/python3", "python3"} {
		out, err := exec.CommandContext(t.Context(), p, "-c", "import boto3, botocore; print(botocore.__version__)").CombinedOutput()
		if err != nil {
			tried = append(tried, fmt.Sprintf("%s: %v: %s", p, err, out))
			continue
		}
		version := strings.TrimSpace(string(out))
		if _, ok := found[version]; !ok {
			found[version] = p
		}
	}
	if len(found) == 0 {
		t.Fatalf("no Python with boto3 is installed; make deps installs one\n%s", strings.Join(tried, "\n"))
	}
	return found
}

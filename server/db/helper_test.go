package db

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// childVariable makes the test binary the victim of crash_test.go.
const childVariable = "TRANSFERD_DB_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		run := child
		if os.Getenv(mutateVariable) != "" {
			run = mutator
		}
		if err := run(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Most tests wait for others' work or for the disk: more of them at once than there are processors. A flag of the
	// command line comes later and counts.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(tidy{m})
}

// tidy ends the PostgreSQL of the tests before somebody looks what they left running.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	code := t.m.Run()
	if err := servers.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

func open(t testing.TB, cfg Config) *DB {
	t.Helper()
	d, err := Open(context.Background(), where(t, cfg))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error("close:", err)
		}
	})
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func value[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func wantNotFound(t testing.TB, err error, kind, resource string) {
	t.Helper()
	var e *server.NotFoundError
	if !errors.As(err, &e) || *e != (server.NotFoundError{ResourceType: kind, Resource: resource}) {
		t.Errorf("got %v, want Unknown %s %s", err, kind, resource)
	}
}

func wantExists(t testing.TB, err error, kind, resource string) {
	t.Helper()
	var e *server.ExistsError
	if !errors.As(err, &e) || *e != (server.ExistsError{ResourceType: kind, Resource: resource}) {
		t.Errorf("got %v, want %s %s already exists", err, kind, resource)
	}
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, within time.Duration, is func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %s", what, within)
		case <-tick.C:
		}
	}
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func aKey(id string) hostkeys.Key {
	return hostkeys.Key{HostKeyId: id, Type: "ssh-ed25519", Fingerprint: "SHA256:x", PEM: []byte("secret"),
		DateImported: time.UnixMilli(1_700_000_000_000).UTC()}
}

// aWorkflow has so many COPY steps and one DELETE step for exceptions.
func aWorkflow(id workflow.ID, steps int) workflow.Workflow {
	w := workflow.Workflow{WorkflowId: id, Description: "d"}
	for range steps {
		w.Steps = append(w.Steps, workflow.StepSpec{Type: "COPY", CopyStepDetails: &workflow.CopyStepDetails{Name: "c"}})
	}
	w.OnExceptionSteps = []workflow.StepSpec{{Type: "DELETE", DeleteStepDetails: &workflow.DeleteStepDetails{}}}
	return w
}

// attached makes a server with workflows for both kinds of upload.
func attached(t testing.TB, d *DB, steps int) server.ID {
	t.Helper()
	must(t, setUp(t.Context(), d, "s-1", steps))
	return "s-1"
}

func setUp(ctx context.Context, d *DB, id server.ID, steps int) error {
	detail := func(w string) []server.WorkflowDetail {
		return []server.WorkflowDetail{{WorkflowId: w, ExecutionRole: "role-" + w}}
	}
	return errors.Join(
		d.CreateWorkflow(ctx, aWorkflow("w-whole", steps)),
		d.CreateWorkflow(ctx, aWorkflow("w-cut", steps)),
		d.CreateServer(ctx, server.Server{ServerId: id, State: server.Online, WorkflowDetails: &server.WorkflowDetails{
			OnUpload: detail("w-whole"), OnPartialUpload: detail("w-cut"),
		}}, nil),
	)
}

func anUpload(d *DB, id server.ID) session.Upload {
	return session.Upload{
		ID: newID(), Node: d.Node(), Server: id, User: "ann", Session: "abc", Protocol: "SFTP", SourceIP: "192.0.2.1",
		Location: storage.Location{Domain: "S3", Store: "bucket", Name: "in/file"}, Began: time.Now().UTC(), Received: 1,
	}
}

func whole() session.Verdict {
	return session.Verdict{Outcome: session.Complete, Evidence: session.Closed, Received: 5, Ended: time.Now().UTC(),
		Object: storage.Object{Size: 5, ETag: "tag", VersionID: "v1"}}
}

// step is an engine that succeeds with every step.
func step(d *DB, j workflow.Job) (workflow.Transition, error) {
	e, err := d.Execution(context.Background(), j.Execution)
	if err != nil {
		return workflow.Transition{}, err
	}
	now := time.Now().UTC()
	t := workflow.Transition{From: j, Previous: e.Previous, Status: workflow.InProgress,
		Result: workflow.StepResult{StepType: e.Plan.Steps[j.Step].Type, Attempt: j.Attempt, Began: now, Ended: now}}
	if j.Step+1 < len(e.Plan.Steps) {
		t.Next = &workflow.Job{Execution: j.Execution, Phase: workflow.Nominal, Step: j.Step + 1}
	} else {
		t.Status = workflow.Completed
	}
	return t, nil
}

func succeed(d *DB) engine {
	return func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		t, err := step(d, j)
		if err != nil {
			return err
		}
		return advance(ctx, t)
	}
}

// work runs the queue until the test ends or the returned function is called.
func work(t testing.TB, d *DB, run engine, workers int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Work(ctx, run, workers) }()
	done := false
	stop = func() {
		if done {
			return
		}
		done = true
		cancel()
		if err := <-ended; err != nil {
			t.Error("work:", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// send begins and ends one upload.
func send(t testing.TB, d *DB, id server.ID, v session.Verdict) workflow.ExecutionID {
	t.Helper()
	u := anUpload(d, id)
	must(t, d.Begin(t.Context(), u))
	must(t, d.End(t.Context(), u, v))
	return workflow.ExecutionID(u.ID)
}

func hasStatus(t testing.TB, d *DB, id workflow.ExecutionID, s workflow.Status) func() bool {
	return func() bool { return value[workflow.Execution](t)(d.Execution(t.Context(), id)).Status == s }
}

// breakDown takes the database away from under d.
func breakDown(t testing.TB, d *DB) {
	t.Helper()
	switch b := d.base.(type) {
	case *sqlite:
		must(t, b.write.Close())
	case *postgres:
		b.pool.Close()
	}
}

package db

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

var _ session.Journal = (*DB)(nil)
var _ workflow.Executions = (*DB)(nil)

func TestJournal(t *testing.T) { both(t, testJournal) }

func testJournal(t *testing.T) {
	d, ctx := open(t, Config{Node: "n1"}), t.Context()
	u := anUpload(d, "s-1")
	must(t, d.Begin(ctx, u))
	must(t, d.Begin(ctx, u)) // a second try, after a commit that nobody heard of
	another := u
	another.User = "bob"
	wantExists(t, d.Begin(ctx, another), "Upload", u.ID)
	must(t, d.Note(ctx, u.ID, "token"))
	wantNotFound(t, d.Note(ctx, "none", "token"), "Upload", "none")

	must(t, d.Committed(ctx, u.ID, session.Commit{Object: whole().Object, Received: 7}))
	wantNotFound(t, d.Committed(ctx, "none", session.Commit{Object: whole().Object, Received: 7}), "Upload", "none")

	u.Token = "token"
	u.Committed = &session.Commit{Object: whole().Object, Received: 7}
	if left := value[[]session.Upload](t)(d.Unfinished(ctx, "n1")); !reflect.DeepEqual(left, []session.Upload{u}) {
		t.Errorf("unfinished %+v, want %+v", left, u)
	}
	if left := value[[]session.Upload](t)(d.Unfinished(ctx, "n2")); len(left) != 0 {
		t.Errorf("another node's: %+v", left)
	}
	v := whole()
	must(t, d.End(ctx, u, v))
	again := v
	again.Outcome = session.Partial
	must(t, d.End(ctx, u, again))
	wantNotFound(t, d.End(ctx, session.Upload{ID: "none"}, v), "Upload", "none")
	if left := value[[]session.Upload](t)(d.Unfinished(ctx, "n1")); len(left) != 0 {
		t.Errorf("unfinished after End: %+v", left)
	}
	second := anUpload(d, "s-1")
	second.Began = u.Began.Add(time.Second)
	must(t, d.Begin(ctx, second))
	all := value[[]UploadRecord](t)(d.Uploads(ctx, server.Page{}))
	want := []UploadRecord{{Upload: u, Verdict: &v}, {Upload: second}}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("journal %+v, want %+v", all, want)
	}
	if page := value[[]UploadRecord](t)(d.Uploads(ctx, server.Page{After: u.ID, Limit: 1})); !reflect.DeepEqual(page, want[1:]) {
		t.Errorf("second page %+v", page)
	}
}

func TestVerdictOnARenamedFile(t *testing.T) { both(t, testVerdictOnARenamedFile) }

// A file that had a temporary name: the execution is about the name that it has, and the journal knows both.
func testVerdictOnARenamedFile(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	u, v := anUpload(d, attached(t, d, 2)), whole()
	u.Location.Name = "in/file.filepart"
	v.Location = &storage.Location{Domain: "S3", Store: "bucket", Name: "in/file"}
	must(t, d.Begin(ctx, u))
	must(t, d.End(ctx, u, v))
	e, err := d.Execution(ctx, workflow.ExecutionID(u.ID))
	must(t, err)
	file := workflow.S3FileLocation{Bucket: "bucket", Key: "in/file", VersionId: "v1", Etag: "tag"}
	if *e.InitialFileLocation.S3FileLocation != file || *e.Previous.S3FileLocation != file {
		t.Errorf("file %+v, previous %+v, want %+v", e.InitialFileLocation, e.Previous, file)
	}
	r, err := d.Upload(ctx, u.ID)
	must(t, err)
	if r.Upload.Location.Name != "in/file.filepart" || r.Verdict == nil || r.Verdict.At(r.Upload).Name != "in/file" {
		t.Errorf("the journal has %+v, verdict %+v", r.Upload, r.Verdict)
	}
}

func TestVerdictCausesExecution(t *testing.T) { both(t, testVerdictCausesExecution) }

func testVerdictCausesExecution(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	id := attached(t, d, 2)
	for name, c := range map[string]struct {
		outcome  session.Outcome
		received int64
		want     workflow.ID
	}{
		"complete":       {session.Complete, 5, "w-whole"},
		"partial":        {session.Partial, 5, "w-cut"},
		"refused":        {session.Refused, 5, ""},
		"complete empty": {session.Complete, 0, ""},
		"partial empty":  {session.Partial, 0, ""},
	} {
		u, v := anUpload(d, id), whole()
		v.Outcome, v.Received = c.outcome, c.received
		must(t, d.Begin(ctx, u))
		must(t, d.End(ctx, u, v))
		must(t, d.End(ctx, u, v))
		e, err := d.Execution(ctx, workflow.ExecutionID(u.ID))
		if c.want == "" {
			wantNotFound(t, err, "Execution", u.ID)
			continue
		}
		must(t, err)
		if e.WorkflowId != c.want || e.ExecutionRole != "role-"+string(c.want) || e.Status != workflow.InProgress ||
			e.Evidence != "closed" || len(e.Plan.Steps) != 2 || len(e.Plan.OnExceptionSteps) != 1 || e.Began.IsZero() {
			t.Errorf("%s: %+v", name, e)
		}
		file := workflow.S3FileLocation{Bucket: "bucket", Key: "in/file", VersionId: "v1", Etag: "tag"}
		if *e.InitialFileLocation.S3FileLocation != file || *e.Previous.S3FileLocation != file {
			t.Errorf("%s: file %+v, previous %+v", name, e.InitialFileLocation, e.Previous)
		}
		if e.ServiceMetadata.UserDetails != (workflow.UserDetails{UserName: "ann", ServerId: "s-1", SessionId: "abc"}) {
			t.Errorf("%s: whose %+v", name, e.ServiceMetadata)
		}
	}
}

func TestExecutionsOutliveWhatCausedThem(t *testing.T) { both(t, testExecutionsOutliveWhatCausedThem) }

func testExecutionsOutliveWhatCausedThem(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	id := attached(t, d, 1)
	var ids []workflow.ExecutionID
	for range 5 {
		ids = append(ids, send(t, d, id, whole()))
	}
	work(t, d, succeed(d), 2)
	for _, e := range ids {
		eventually(t, "execution ends", long, hasStatus(t, d, e, workflow.Completed))
	}
	must(t, d.DeleteServer(ctx, id))
	must(t, d.DeleteWorkflow(ctx, "w-whole"))
	var seen []workflow.ExecutionID
	for page := (server.Page{Limit: 2}); ; {
		l := value[[]workflow.Execution](t)(d.Executions(ctx, "w-whole", page))
		if len(l) == 0 {
			break
		}
		for _, e := range l {
			if len(e.Results.Steps) != 1 || e.Ended.IsZero() {
				t.Errorf("listed %+v", e)
			}
			seen = append(seen, e.ExecutionId)
		}
		page.After = string(seen[len(seen)-1])
	}
	if len(seen) != 5 {
		t.Errorf("pages hold %v of %v", seen, ids)
	}
	if n := len(value[[]UploadRecord](t)(d.Uploads(ctx, server.Page{}))); n != 5 {
		t.Errorf("%d uploads left of 5", n)
	}
}

func TestWorkflowWithoutStepsIsCompleteAtOnce(t *testing.T) {
	both(t, testWorkflowWithoutStepsIsCompleteAtOnce)
}

func testWorkflowWithoutStepsIsCompleteAtOnce(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 0)
	e := value[workflow.Execution](t)(d.Execution(t.Context(), send(t, d, id, whole())))
	if e.Status != workflow.Completed || e.Ended.IsZero() {
		t.Errorf("%+v", e)
	}
	if n := jobs(t, d, "1 = 1"); n != 0 {
		t.Errorf("%d jobs for no steps", n)
	}
}

func jobs(t testing.TB, d *DB, where string) (n int) {
	t.Helper()
	must(t, d.reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM river_job WHERE `+where).Scan(&n))
	return n
}

// Calls that share a transaction fail alone: some of these insert a row twice, and everybody else must not notice.
func TestSharedTransactionFailsApart(t *testing.T) { both(t, testSharedTransactionFailsApart) }

func testSharedTransactionFailsApart(t *testing.T) {
	registry := prometheus.NewRegistry()
	d, ctx := open(t, Config{Registerer: registry}), t.Context()
	id := attached(t, d, 1)
	taken := anUpload(d, id)
	must(t, d.Begin(ctx, taken))
	taken.User = "bob" // an upload of its own with the same id

	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for range 5 {
				u := anUpload(d, id)
				if err := errors.Join(d.Begin(ctx, u), d.Note(ctx, u.ID, "t"), d.End(ctx, u, whole())); err != nil {
					t.Error(err)
				}
				if i%4 == 0 {
					wantExists(t, d.Begin(ctx, taken), "Upload", taken.ID)
				}
			}
		})
	}
	all.Wait()
	if n := len(value[[]workflow.Execution](t)(d.Executions(ctx, "w-whole", server.Page{}))); n != 320 {
		t.Errorf("%d executions of 320", n)
	}
	if n := jobs(t, d, "state = 'available'"); n != 320 {
		t.Errorf("%d jobs of 320", n)
	}
	calls, transactions := batches(t, registry)
	if calls < 960 || transactions > calls/2 {
		t.Errorf("%d calls in %d transactions: nothing shared", calls, transactions)
	}
}

func batches(t testing.TB, registry *prometheus.Registry) (calls, transactions uint64) {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == "transferd_db_batch_calls" {
			h := f.GetMetric()[0].GetHistogram()
			return uint64(h.GetSampleSum()), h.GetSampleCount()
		}
	}
	t.Fatal("no metric")
	return 0, 0
}

func TestCallsAfterTheirEnd(t *testing.T) { both(t, testCallsAfterTheirEnd) }

func testCallsAfterTheirEnd(t *testing.T) {
	d, err := Open(t.Context(), where(t, Config{}))
	must(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	u := anUpload(d, "s-1")
	for range 20 { // taken or not: never done
		if err := d.Begin(ended, u); !errors.Is(err, context.Canceled) {
			t.Fatalf("with an ended context: %v", err)
		}
	}
	must(t, d.Begin(t.Context(), u))
	must(t, d.Close())
	must(t, d.Close())
	if err := d.Begin(t.Context(), anUpload(d, "s-1")); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A lost disk is everybody's failure, and nobody waits for ever.
func TestFailedTransactionAnswersEverybody(t *testing.T) {
	both(t, testFailedTransactionAnswersEverybody)
}

func testFailedTransactionAnswersEverybody(t *testing.T) {
	d := open(t, Config{})
	breakDown(t, d)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := d.Begin(t.Context(), anUpload(d, "s-1")); err == nil {
				t.Error("an upload began without a row")
			}
		})
	}
	all.Wait()
	if err := d.UpdateServer(t.Context(), "s-1", func(*server.Server) error { return nil }); err == nil {
		t.Error("changed a server without a database")
	}
	if err := d.Work(t.Context(), succeed(d), 1); err == nil {
		t.Error("worked without a database")
	}
}

func TestQueueDepthIsAMetric(t *testing.T) { both(t, testQueueDepthIsAMetric) }

func testQueueDepthIsAMetric(t *testing.T) {
	registry := prometheus.NewRegistry()
	d := open(t, Config{Registerer: registry})
	id := attached(t, d, 1)
	send(t, d, id, whole())
	families, err := registry.Gather()
	must(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "transferd_db_queue_jobs" && m.GetLabel()[0].GetValue() == "available" {
				if m.GetGauge().GetValue() != 1 {
					t.Errorf("depth %v, want 1", m.GetGauge().GetValue())
				}
				return
			}
		}
	}
	t.Error("no metric of waiting jobs")
}

// BenchmarkJournal measures calls a second: Begin and End in turn, with an execution queued by each End.
func BenchmarkJournal(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		for name, steps := range map[string]int{"plain": -1, "workflow": 1} {
			b.Run(fmt.Sprintf("%s/%d", name, callers), func(b *testing.B) {
				registry := prometheus.NewRegistry()
				d := open(b, Config{Registerer: registry})
				id := server.ID("s-none")
				if steps >= 0 {
					id = attached(b, d, steps)
				}
				todo := make(chan struct{}, b.N)
				for range b.N {
					todo <- struct{}{}
				}
				close(todo)
				b.ResetTimer()
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						for range todo {
							u := anUpload(d, id)
							if err := errors.Join(d.Begin(b.Context(), u), d.End(b.Context(), u, whole())); err != nil {
								b.Error(err)
							}
						}
					})
				}
				all.Wait()
				b.StopTimer()
				calls, transactions := batches(b, registry)
				b.ReportMetric(float64(2*b.N)/b.Elapsed().Seconds(), "calls/s")
				b.ReportMetric(float64(calls)/float64(transactions), "calls/tx")
			})
		}
	}
}

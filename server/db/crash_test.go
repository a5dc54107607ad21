package db

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/workflow"
)

// kills is how often TestKilledAgainAndAgain kills: go test -run KilledAgain -kills 300.
var kills = flag.Int("kills", 4, "how often the child process is killed")

// hangVariable makes a child's steps never end.
const hangVariable = "TRANSFERD_DB_TEST_HANG"

// child is the process that is killed: it ends what the last one left open, sends uploads as fast as it can and works
// their steps. What it did stands in two files, appended to: "acked" (uploads whose End returned) and "effects" (every
// run of a step, before its transition).
func child(ctx context.Context, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := Open(ctx, Config{Dir: filepath.Join(dir, "data"), URL: os.Getenv(urlVariable)})
	if err != nil {
		return err
	}
	acked, err := appender(filepath.Join(dir, "acked"))
	if err != nil {
		return err
	}
	effects, err := appender(filepath.Join(dir, "effects"))
	if err != nil {
		return err
	}
	if err := setUp(ctx, d, "s-1", 3); err != nil {
		var exists *server.ExistsError
		if !errors.As(err, &exists) {
			return err
		}
	}
	if err := endLeftovers(ctx, d); err != nil {
		return err
	}
	errs := make(chan error, 16)
	run := recordingEngine(d, effects)
	if os.Getenv(hangVariable) != "" {
		run = func(ctx context.Context, _ workflow.Job, _ workflow.Advance) error {
			fmt.Println("ready")
			<-ctx.Done()
			return ctx.Err()
		}
	}
	go func() { errs <- d.Work(ctx, run, 8) }()
	for range 8 {
		go func() {
			for {
				u := anUpload(d, "s-1")
				if err := errors.Join(d.Begin(ctx, u), d.End(ctx, u, whole())); err != nil {
					errs <- err
					return
				}
				if err := acked(u.ID); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	if os.Getenv(hangVariable) == "" {
		fmt.Println("ready")
	}
	return <-errs
}

func endLeftovers(ctx context.Context, d *DB) error {
	left, err := d.Unfinished(ctx, d.Node())
	if err != nil {
		return err
	}
	for _, u := range left {
		v := whole()
		v.Outcome, v.Evidence = session.Partial, session.Crash
		if err := d.End(ctx, u, v); err != nil {
			return err
		}
	}
	return nil
}

func recordingEngine(d *DB, effects func(string) error) engine {
	return func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		if err := effects(fmt.Sprint(j.Execution, " ", j.Step, " ", j.Attempt)); err != nil {
			return err
		}
		return succeed(d)(ctx, j, advance)
	}
}

// appender writes lines whole, one write each, so that a kill cuts none.
func appender(path string) (func(line string) error, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return func(line string) error {
		_, err := f.WriteString(line + "\n")
		return err
	}, nil
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(b)), " ", "\x00"))
}

// spawn starts a child and returns when it works. The returned function kills it (SIGKILL) and waits for its end.
func spawn(t *testing.T, dir string, env ...string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self)
	data := filepath.Join(dir, "data")
	url := where(t, Config{Dir: data}).URL
	if _, err := os.Stat(data); url == "" && errors.Is(err, fs.ErrNotExist) {
		embeddedTables.put(t, data)
	}
	c.Env = append(append(os.Environ(), childVariable+"="+dir, urlVariable+"="+url), env...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	kill = func() {
		must(t, c.Process.Kill())
		if err := c.Wait(); err == nil || stderr.Len() > 0 {
			t.Errorf("child ended by itself: %v %s", err, &stderr)
		}
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		kill()
		t.Fatalf("child said %q (%v): %s", line, err, &stderr)
	}
	return kill
}

func TestKilledAgainAndAgain(t *testing.T) { both(t, testKilledAgainAndAgain) }

func testKilledAgainAndAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	dir, ctx := t.TempDir(), t.Context()
	for range *kills {
		kill := spawn(t, dir)
		select { // the moment is what the test varies
		case <-time.After(time.Duration(50+rand.IntN(400)) * time.Millisecond):
		case <-ctx.Done():
		}
		kill()
	}

	d := open(t, Config{Dir: filepath.Join(dir, "data")})
	must(t, endLeftovers(ctx, d))
	effects, err := appender(filepath.Join(dir, "effects"))
	must(t, err)
	stop := work(t, d, recordingEngine(d, effects), 16)
	eventually(t, "all executions end", long, func() bool {
		var n int
		must(t, d.reader().QueryRow(ctx, `SELECT COUNT(*) FROM executions WHERE ended = 0`).Scan(&n))
		return n == 0
	})
	stop()

	records := value[[]UploadRecord](t)(d.Uploads(ctx, server.Page{}))
	known := map[string]bool{}
	cut := 0
	for _, r := range records {
		known[r.Upload.ID] = true
		e := value[workflow.Execution](t)(d.Execution(ctx, workflow.ExecutionID(r.Upload.ID)))
		want := workflow.ID("w-whole")
		if r.Verdict.Outcome == session.Partial {
			want = "w-cut"
			cut++
		}
		if e.WorkflowId != want || e.Status != workflow.Completed || len(e.Results.Steps) != 3 {
			t.Errorf("upload %s %s: execution %+v", r.Upload.ID, r.Verdict.Outcome, e)
		}
	}
	for _, id := range lines(t, filepath.Join(dir, "acked")) {
		if !known[id] {
			t.Errorf("upload %s was acknowledged and is lost", id)
		}
	}
	var n int
	must(t, d.reader().QueryRow(ctx, `SELECT COUNT(*) FROM executions`).Scan(&n))
	if n != len(records) {
		t.Errorf("%d executions for %d uploads", n, len(records))
	}
	checkEffects(t, lines(t, filepath.Join(dir, "effects")), 3*len(records), cut)
}

// checkEffects wants every step run, and no run of a step twice with the same attempt number.
func checkEffects(t *testing.T, effects []string, steps, cut int) {
	t.Helper()
	runs, ran, repeated := map[string]bool{}, map[string]bool{}, 0
	for _, e := range effects {
		if runs[e] {
			t.Errorf("unmarked repeat: %s", strings.ReplaceAll(e, "\x00", " "))
		}
		runs[e] = true
		job := e[:strings.LastIndex(e, "\x00")]
		if ran[job] {
			repeated++
		}
		ran[job] = true
	}
	if len(ran) != steps {
		t.Errorf("%d steps ran, want %d", len(ran), steps)
	}
	t.Logf("%d kills, %d executions (%d of uploads cut by a kill), %d steps, %d repeated, all marked", *kills, steps/3, cut,
		steps, repeated)
}

// A killed process's running steps and due retries go on as soon as the next one works, not after a lease has lapsed.
func TestRestartResumesAtOnce(t *testing.T) { both(t, testRestartResumesAtOnce) }

func testRestartResumesAtOnce(t *testing.T) {
	dir := t.TempDir()
	spawn(t, dir, hangVariable+"=1")()
	d := open(t, Config{Dir: filepath.Join(dir, "data")})
	before := jobs(t, d, "state = 'running'")
	began := time.Now()
	first := make(chan workflow.Job, 1)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		if j.Attempt > 1 {
			select {
			case first <- j:
			default:
			}
		}
		return succeed(d)(ctx, j, advance)
	}, 8)
	if before == 0 {
		t.Fatal("the kill met no running step")
	}
	select {
	case <-first:
		t.Logf("%d steps were running; the first came again after %s", before, time.Since(began))
	case <-time.After(long):
		t.Error("no step came again")
	}
}

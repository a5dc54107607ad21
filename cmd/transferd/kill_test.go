package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

var stormKills = flag.Int("storm", 4, "how often TestStorm kills the daemon")

// TestCrashPoints kills the daemon between each pair of adjacent points of the order, starts it again, and looks for
// exactly one execution with the right trigger, no dangling multipart upload, and no step doubled without a mark.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	const whole, partial = true, false
	points := []struct {
		point   string
		trigger bool // whole or partial
		cut     bool // the client goes away while the file is open
		kept    int  // bytes of the file that must be there; -1: some
		repeats int  // steps that must be marked as repeated
	}{
		{point: crashAfterBegin, trigger: partial, kept: 0},
		{point: crashAfterCreate, trigger: partial, kept: 0},
		{point: crashAfterNote, trigger: partial, kept: 0},
		{point: crashAfterPart, trigger: partial, kept: -1},
		{point: crashAfterCommit, trigger: partial, kept: crashFile},
		{point: crashInPartialEnd, trigger: partial, cut: true, kept: crashCut},
		{point: crashAfterEnd, trigger: whole, kept: crashFile},
		{point: crashAfterEffect, trigger: whole, kept: crashFile, repeats: 1},
		// The same worker was about to go on with the next step. Nothing is written when it does, so nobody knows whether it
		// had begun, and it counts as repeated.
		{point: crashAfterStep, trigger: whole, kept: crashFile, repeats: 1},
		{point: crashAfterDoneSteps, trigger: whole, kept: crashFile},
	}
	for _, c := range points {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			// The workflows are attached before the crashing daemon starts: it must die in the upload.
			first := startDaemon(t, startOptions{})
			ids := map[bool]string{}
			ids[whole], ids[partial] = first.attachWorkflows()
			first.stop()

			dying := startDaemon(t, startOptions{data: first.data, crash: c.point})
			content := noise(crashFile)
			dying.putUntilDeath(content, c.cut)
			if err := dying.awaitEnd(); !killed(err) {
				t.Fatalf("the daemon ended with %v, not by its own kill", err)
			}

			p := startDaemon(t, startOptions{data: first.data})
			e := p.awaitExecution(ids[c.trigger], "crash.bin")
			if e.Status != types.ExecutionStatusCompleted {
				t.Errorf("execution ended as %s: %+v", e.Status, e.Results)
			}
			if n := len(p.executions(ids[c.trigger], "crash.bin")) + len(p.executions(ids[!c.trigger], "crash.bin")); n != 1 {
				t.Errorf("%d executions instead of one", n)
			}
			got := p.object("crash.bin")
			if !bytes.HasPrefix(content, got) || c.kept >= 0 && len(got) != c.kept || c.kept < 0 && len(got) == 0 {
				t.Errorf("the object is %s, want the file's first bytes (%d)", sum(got), c.kept)
			}
			if u := p.danglingUploads(); len(u) != 0 {
				t.Errorf("multipart uploads left: %v", u)
			}
			if marked, unmarked := repeats(p.stepStarts()[aws.ToString(e.ExecutionId)]); marked != c.repeats || unmarked != 0 {
				t.Errorf("%d steps are marked as repeated and %d should be, want %d and 0", marked, unmarked, c.repeats)
			}
			t.Logf("%-24s → %s, %d of %d bytes kept, %d steps marked as repeated", c.point,
				map[bool]string{whole: "OnUpload", partial: "OnPartialUpload"}[c.trigger], len(got), crashFile, c.repeats)
		})
	}
}

// The file of the crash tests: two whole parts and a bit. A cut one has as much as no part boundary.
const (
	crashFile = 20 << 20
	crashCut  = 13 << 20
)

// putUntilDeath uploads until the daemon dies under it. What the client sees then is no matter of this test.
func (p *proc) putUntilDeath(content []byte, cut bool) {
	p.t.Helper()
	conn, client, err := p.tryDial()
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	f, err := client.OpenFile("crash.bin", os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return
	}
	if cut {
		content = content[:crashCut]
	}
	if _, err := f.ReadFrom(bytes.NewReader(content)); err != nil || cut {
		return
	}
	_ = f.Close() // the daemon may die before it answers
}

func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// stepStarts are how often each step of each execution was started: execution → step and attempt → count, from the
// daemon's log, which is written before the step does anything.
func (p *proc) stepStarts() map[string]map[string]int {
	p.t.Helper()
	starts := map[string]map[string]int{}
	for _, e := range p.logEntries("type", "StepStarted") {
		id, d := e["executionId"].(string), e["details"].(map[string]any)
		if starts[id] == nil {
			starts[id] = map[string]int{}
		}
		starts[id][fmt.Sprintf("%v %v %v attempt %v", e["phase"], d["stepType"], d["stepName"], e["attempt"])]++
	}
	return starts
}

// repeats counts the starts of steps that are marked as repeats, and those that should be and are not.
func repeats(starts map[string]int) (marked, unmarked int) {
	for start, n := range starts {
		if !strings.HasSuffix(start, " attempt 1") {
			marked += n
		}
		unmarked += n - 1
	}
	return marked, unmarked
}

// TestParentKilled: the S3 store ends with a killed daemon, and a restart on the same data works at once.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	before := p.env
	child := p.storePid(t)
	p.kill()
	deadline := time.Now().Add(patience)
	for processLives(child) {
		if time.Now().After(deadline) {
			t.Fatalf("the store's process %d outlives its parent", child)
		}
		time.Sleep(10 * time.Millisecond)
	}
	begun := time.Now()
	again := startDaemon(t, startOptions{data: p.data})
	t.Logf("ready %v after a kill -9", time.Since(begun).Round(time.Millisecond))
	for _, name := range []string{"SERVER_ID", "SFTP_USER", "SFTP_KEY", "SFTP_PORT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if before[name] != again.env[name] {
			t.Errorf("%s changed from %q to %q", name, before[name], again.env[name])
		}
	}
}

// storePid finds the S3 store's process: the daemon's only child.
func (p *proc) storePid(t *testing.T) int {
	t.Helper()
	var pid int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", p.cmd.Process.Pid, task.Name()))
		if err == nil && len(bytes.Fields(b)) > 0 {
			if _, err := fmt.Sscan(string(b), &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid == 0 {
		t.Fatal("the daemon has no child process")
	}
	return pid
}

// processLives tells whether a process runs; a zombie does not.
func processLives(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// stormTally is what a storm of kills came to.
type stormTally struct {
	kills, sent, answered, cut  int
	wholeRuns, partialRuns      int
	lost, doubled, wrongTrigger int
	notPrefix, dangling, marked int
	unmarked, unsure            int
}

// TestStorm kills the daemon at random moments of uploads and workflows, -storm times, and counts what was lost.
func TestStorm(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, partial := p.attachWorkflows()
	var tally stormTally
	var files []*stormFile
	for i := range *stormKills {
		files = append(files, p.storm(i)...)
		p.kill()
		tally.kills++
		p = startDaemon(t, startOptions{data: p.data})
	}
	for _, f := range files {
		<-f.done
	}
	runs := p.awaitRuns(files, whole, partial)
	starts := p.stepStarts()
	for _, f := range files {
		p.judge(&tally, f, runs[f.name], starts)
	}
	dangling := p.danglingUploads()
	tally.dangling = len(dangling)
	t.Logf("kills %d, files sent %d: answered %d, cut by the kill %d; executions OnUpload %d, OnPartialUpload %d; steps marked as repeated %d",
		tally.kills, tally.sent, tally.answered, tally.cut, tally.wholeRuns, tally.partialRuns, tally.marked)
	t.Logf("lost %d, doubled %d, wrong trigger %d, no prefix %d, dangling %d, steps repeated without a mark %d; killed before any write was answered %d",
		tally.lost, tally.doubled, tally.wrongTrigger, tally.notPrefix, tally.dangling, tally.unmarked, tally.unsure)
	if tally.lost+tally.doubled+tally.wrongTrigger+tally.notPrefix+tally.dangling+tally.unmarked > 0 {
		t.Errorf("the storm did damage: %+v; dangling %v", tally, dangling)
	}
}

// stormFile is one upload of a storm.
type stormFile struct {
	name     string
	seed     [32]byte // what it holds: a storm's files together would not fit in memory
	size     int
	answered bool // the client got a good answer to its CLOSE
	acked    bool // the client got a good answer to at least one write
	done     chan struct{}
}

// storm uploads a few files at once and returns at a random moment, with the uploads still going on.
func (p *proc) storm(round int) []*stormFile {
	files := make([]*stormFile, 3)
	begun := make(chan struct{}, len(files))
	for i := range files {
		f := &stormFile{name: fmt.Sprintf("storm-%d-%d.bin", round, i), seed: seed(), size: 1 + rand.IntN(24<<20), done: make(chan struct{})}
		files[i] = f
		go p.stormPut(f, begun)
	}
	<-begun
	time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond) // the randomness of the kill, not a wait
	return files
}

func (p *proc) stormPut(f *stormFile, begun chan<- struct{}) {
	defer close(f.done)
	conn, client, err := p.tryDial()
	begun <- struct{}{}
	if err != nil {
		return
	}
	defer conn.Close()
	w, err := client.OpenFile(f.name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return
	}
	content := seeded(f.seed, f.size)
	// The first byte apart, so that the test knows whether the daemon had answered any write.
	if _, err := w.Write(content[:1]); err != nil {
		return
	}
	f.acked = true
	if _, err := w.ReadFrom(bytes.NewReader(content[1:])); err != nil {
		return
	}
	f.answered = w.Close() == nil
}

// stormRuns are the executions that a file had.
type stormRuns struct{ whole, partial []types.ListedExecution }

// awaitRuns waits until every file that the daemon had taken a byte of has an execution, and all have ended.
func (p *proc) awaitRuns(files []*stormFile, whole, partial string) map[string]stormRuns {
	p.t.Helper()
	var runs map[string]stormRuns
	p.await("an ended execution for every file", func() bool {
		runs = map[string]stormRuns{}
		ended := true
		for _, e := range p.allExecutions(whole) {
			key := aws.ToString(e.InitialFileLocation.S3FileLocation.Key)
			r := runs[key]
			runs[key] = stormRuns{append(r.whole, e), r.partial}
			ended = ended && e.Status == types.ExecutionStatusCompleted
		}
		for _, e := range p.allExecutions(partial) {
			key := aws.ToString(e.InitialFileLocation.S3FileLocation.Key)
			r := runs[key]
			runs[key] = stormRuns{r.whole, append(r.partial, e)}
			ended = ended && e.Status == types.ExecutionStatusCompleted
		}
		for _, f := range files {
			ended = ended && (!f.acked || len(runs[f.name].whole)+len(runs[f.name].partial) > 0)
		}
		return ended
	})
	return runs
}

func (p *proc) allExecutions(workflow string) []types.ListedExecution {
	p.t.Helper()
	var all []types.ListedExecution
	pages := transfer.NewListExecutionsPaginator(p.api(), &transfer.ListExecutionsInput{WorkflowId: aws.String(workflow)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, page.Executions...)
	}
	return all
}

// judge compares one file of a storm with what the daemon made of it.
func (p *proc) judge(tally *stormTally, f *stormFile, runs stormRuns, starts map[string]map[string]int) {
	p.t.Helper()
	tally.sent++
	tally.wholeRuns += len(runs.whole)
	tally.partialRuns += len(runs.partial)
	switch {
	case f.answered:
		tally.answered++
		if len(runs.whole) == 0 || len(runs.partial) > 0 {
			tally.wrongTrigger++
		}
	case f.acked:
		// The kill may have come after the verdict and before the answer, so complete is possible too.
		tally.cut++
	default:
		tally.unsure++
	}
	all := append(runs.whole, runs.partial...)
	if len(all) > 1 {
		tally.doubled++
	}
	if f.acked && len(all) == 0 {
		tally.lost++
	}
	got := p.object(f.name)
	if !bytes.HasPrefix(seeded(f.seed, f.size), got) || f.answered && len(got) != f.size {
		tally.notPrefix++
	}
	for _, e := range all {
		marked, unmarked := repeats(starts[aws.ToString(e.ExecutionId)])
		tally.marked += marked
		tally.unmarked += unmarked
	}
}

package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/db/pgtest"
)

var stormExecutions = flag.Int("executions", 12, "how many executions TestWorkflowStorm spreads over the -storm kills")

// The fates of a storm's files. A file's name begins with its fate, so that the far side knows what to do with it, and
// what its execution must come to follows from its name.
var fates = map[string]string{
	"good":  "CUSTOM ok, COPY ok, CUSTOM ok",                                     // SUCCESS after a while
	"early": "CUSTOM ok, COPY ok, CUSTOM ok",                                     // SUCCESS before the call is answered
	"twice": "CUSTOM ok, COPY ok, CUSTOM ok",                                     // SUCCESS from two sides at once
	"flaky": "CUSTOM ok, COPY ok, CUSTOM ok",                                     // 503 to the first call
	"fails": "CUSTOM CUSTOM_STEP_FAILED | TAG ok, CUSTOM CUSTOM_STEP_FAILED",     // FAILURE, from its handler too
	"gone":  "CUSTOM CUSTOM_STEP_FAILED | TAG ok, CUSTOM CUSTOM_STEP_FAILED",     // 410 to each call
	"bad":   "CUSTOM ok, COPY ok, CUSTOM CUSTOM_STEP_FAILED | TAG ok, CUSTOM ok", // the command fails
	"cut":   "CUSTOM TIMEOUT | TAG ok",                                           // a partial upload, about which nobody ever answers
}

// workflowStorm is TestWorkflowStorm at work.
type workflowStorm struct {
	t        *testing.T
	postgres *pgtest.Cluster // nil for SQLite
	receiver *receiver
	daemon   atomic.Pointer[proc]
	flows    map[bool]string // whole and partial
	wanted   map[string]bool // uploads whose client got an answer: their executions must be

	answered  atomic.Int64   // uploads in wanted
	answering sync.WaitGroup // callbacks under way
	refused   atomic.Int64   // callbacks that came to nothing, as they must

	serverKills int
}

// TestWorkflowStorm runs executions of every fate while the daemon is killed at random, and counts what was lost, what
// ran again without a mark, and what ended in another state than it must.
func TestWorkflowStorm(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		stormWorkflows(t, nil)
	})
	t.Run("postgres", func(t *testing.T) { // whose server is killed too
		t.Parallel()
		stormWorkflows(t, startPostgres(t))
	})
}

// stormWorkflows is TestWorkflowStorm on one database: PostgreSQL, or SQLite for nil.
func stormWorkflows(t *testing.T, postgres *pgtest.Cluster) {
	s := &workflowStorm{t: t, postgres: postgres, wanted: map[string]bool{}}
	s.receiver = newReceiver(t, s.play)
	p := s.start("")
	s.daemon.Store(p)
	s.attach(p)
	kills := min(*stormKills, *stormExecutions)
	names := slices.Sorted(func(yield func(string) bool) {
		for fate := range fates {
			if !yield(fate) {
				return
			}
		}
	})
	sent := 0
	for round := range kills {
		ctx, stop := context.WithCancel(t.Context())
		uploads := make(chan struct{})
		go func() {
			defer close(uploads)
			for ; ctx.Err() == nil; sent++ {
				fate := names[sent%len(names)]
				if !s.upload(p, fmt.Sprintf("%s-%d.txt", fate, sent), fate == "cut") {
					return // the daemon has died
				}
			}
		}()
		p.await("the uploads of a round", func() bool { return s.answered.Load() >= int64(*stormExecutions*(round+1)/kills) })
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the randomness of the kill, not a wait
		if postgres != nil && round%4 == 1 {
			s.killPostgres()
		}
		p.kill()
		stop()
		<-uploads
		sent++ // the name of a file that was cut is not used again
		p = s.start(p.data)
		s.daemon.Store(p)
	}
	s.judge(p, kills)
}

// start starts the daemon, on the data of the one before it.
func (s *workflowStorm) start(data string) *proc {
	s.t.Helper()
	opt := startOptions{data: data}
	if s.postgres != nil {
		opt.args = []string{"-database", s.postgres.URL("postgres")}
	}
	return startCustom(s.t, s.receiver, opt)
}

// killPostgres kills the server of the database under the daemon, and starts it again.
func (s *workflowStorm) killPostgres() {
	s.t.Helper()
	if err := s.postgres.Kill(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.postgres.Run(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.serverKills++
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // the randomness of the kill, not a wait
}

// attach makes the workflow of whole files, whose functions answer, and that of cut ones, whose function never does.
func (s *workflowStorm) attach(p *proc) {
	s.t.Helper()
	s.flows = map[bool]string{}
	copied := types.WorkflowStep{Type: types.WorkflowStepTypeCopy, CopyStepDetails: &types.CopyStepDetails{
		Name: aws.String("keep"), DestinationFileLocation: &types.InputFileLocation{
			S3FileLocation: &types.S3InputFileLocation{Bucket: aws.String(devBucket), Key: aws.String("kept/")}}}}
	for whole, plan := range map[bool]*transfer.CreateWorkflowInput{
		true: {Steps: []types.WorkflowStep{customStep("ask", "url", 0), copied, customStep("run", "command", 0)},
			OnExceptionSteps: []types.WorkflowStep{tagStep("handler"), customStep("tell", "url", 0)}},
		false: {Steps: []types.WorkflowStep{customStep("ask", "url", 2)}, OnExceptionSteps: []types.WorkflowStep{tagStep("handler")}},
	} {
		out, err := p.api().CreateWorkflow(s.t.Context(), plan)
		if err != nil {
			s.t.Fatal(err)
		}
		s.flows[whole] = *out.WorkflowId
	}
	one := func(id string) []types.WorkflowDetail {
		return []types.WorkflowDetail{{WorkflowId: &id, ExecutionRole: aws.String("arn:aws:iam::000000000000:role/workflow")}}
	}
	_, err := p.api().UpdateServer(s.t.Context(), &transfer.UpdateServerInput{
		ServerId: aws.String(p.env["SERVER_ID"]), WorkflowDetails: &types.WorkflowDetails{OnUpload: one(s.flows[true]), OnPartialUpload: one(s.flows[false])},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// upload sends a file, whole or cut, and tells whether the client got its answer: only then it knows what must become of
// the file.
func (s *workflowStorm) upload(p *proc, name string, cut bool) bool {
	send := p.put
	if cut {
		send = p.putCut
	}
	if send(name) != nil {
		return false
	}
	s.wanted[name] = true
	s.answered.Add(1)
	return true
}

// putCut sends the beginning of a file and goes away. The journal's row is older than the answer to the write.
func (p *proc) putCut(name string) error {
	conn, client, err := p.tryDial()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := client.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("the beginning"))
	return err
}

// play is the far side: it does with each file what its name says.
func (s *workflowStorm) play(c call, w http.ResponseWriter) {
	fate, _, _ := strings.Cut(strings.TrimPrefix(c.FileLocation.Key, "kept/"), "-")
	if c.ServiceMetadata.ExecutionDetails.WorkflowID == s.flows[false] {
		return
	}
	switch fate {
	case "gone":
		w.WriteHeader(http.StatusGone)
	case "flaky":
		if c.attempt == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.later(c, types.CustomStepStatusSuccess)
	case "early": // before the call itself is answered; judge waits for it as for the others
		s.answering.Add(1)
		defer s.answering.Done()
		s.reply(c, types.CustomStepStatusSuccess)
	case "twice":
		s.later(c, types.CustomStepStatusSuccess)
		s.later(c, types.CustomStepStatusSuccess)
	case "fails":
		s.later(c, types.CustomStepStatusFailure)
	default:
		s.later(c, types.CustomStepStatusSuccess)
	}
}

func (s *workflowStorm) later(c call, status types.CustomStepStatus) {
	pause := time.Duration(rand.IntN(300)) * time.Millisecond
	s.answering.Go(func() {
		time.Sleep(pause) // the work of the function
		s.reply(c, status)
	})
}

// reply calls back until somebody has heard it: the daemon may be dead at any moment of it. What has been answered by an
// earlier try, or another side, is refused.
func (s *workflowStorm) reply(c call, status types.CustomStepStatus) {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		err = s.daemon.Load().send(context.Background(), c, c.Token, status)
		switch {
		case err == nil:
			return
		case strings.Contains(err.Error(), "waits for no callback"):
			s.refused.Add(1)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Errorf("a callback about %s was heard by nobody: %v", c.FileLocation.Key, err)
}

func (s *workflowStorm) judge(p *proc, kills int) {
	s.t.Helper()
	all, lost := s.awaitEnds(p)
	s.answering.Wait()
	starts := p.stepStarts()
	wrong, doubled, marked, unmarked := 0, 0, 0, 0
	for name, es := range all {
		if len(es) > 1 {
			doubled++
		}
		for _, e := range es {
			m, u := repeats(starts[aws.ToString(e.ExecutionId)])
			marked, unmarked = marked+m, unmarked+u
			if got, want := s.outcome(p, name, e); got != want {
				wrong++
				s.t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
	calls := map[string]int{}
	told := s.receiver.all()
	for _, c := range told {
		calls[fmt.Sprint(c.Token, " attempt ", c.attempt)]++
	}
	repeatedCalls := 0
	for _, n := range calls {
		repeatedCalls += n - 1
	}
	s.t.Logf("kills %d, of PostgreSQL %d, files sent and answered %d, executions %d, calls %d, callbacks refused %d, steps marked as repeated %d",
		kills, s.serverKills, len(s.wanted), len(all), len(told), s.refused.Load(), marked)
	s.t.Logf("lost %d, doubled %d, in a wrong state %d, steps repeated without a mark %d, calls repeated without a mark %d",
		lost, doubled, wrong, unmarked, repeatedCalls)
	if lost+doubled+unmarked+repeatedCalls > 0 {
		s.t.Error("the storm did damage")
	}
}

// missedFor is how long an execution may be missing after all others have ended, before it is called lost.
const missedFor = 20 * time.Second

// awaitEnds waits until every execution has ended, and counts the answered files that have none.
func (s *workflowStorm) awaitEnds(p *proc) (all map[string][]types.ListedExecution, lost int) {
	s.t.Helper()
	var quiet time.Time // nothing has been under way since then
	p.await("every execution ends", func() bool {
		all, lost = map[string][]types.ListedExecution{}, 0
		for _, flow := range s.flows {
			for _, e := range p.allExecutions(flow) {
				if e.Status != types.ExecutionStatusCompleted && e.Status != types.ExecutionStatusException {
					quiet = time.Time{}
					return false
				}
				key := aws.ToString(e.InitialFileLocation.S3FileLocation.Key)
				all[key] = append(all[key], e)
			}
		}
		for name := range s.wanted {
			if len(all[name]) == 0 {
				lost++
			}
		}
		if quiet.IsZero() {
			quiet = time.Now()
		}
		return lost == 0 || time.Since(quiet) > missedFor
	})
	return all, lost
}

// outcome is what an execution came to, and what it must have come to: a file that the kill has cut is a partial upload,
// whatever its name says.
func (s *workflowStorm) outcome(p *proc, name string, e types.ListedExecution) (got, want string) {
	s.t.Helper()
	for whole, flow := range s.flows {
		out, err := p.api().DescribeExecution(s.t.Context(), &transfer.DescribeExecutionInput{WorkflowId: &flow, ExecutionId: e.ExecutionId})
		if err != nil {
			continue // the other workflow's
		}
		fate, _, _ := strings.Cut(name, "-")
		if !whole {
			fate = "cut"
		}
		return shown(out.Execution), fates[fate]
	}
	return "no workflow has it", ""
}

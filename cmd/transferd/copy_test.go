package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/workflow"
)

// The points of a copy in pieces, in the order in which it passes them. In a daemon with any of them, files of more than
// 5 MiB are copied in parts of that size, four of them a piece.
const (
	copyPoints         = "copy-"
	copyLives          = "copy-lives"           // nothing is wrong
	copyAfterIntent    = "copy-after-intent"    // it stands in the execution that a copy begins, and nothing of it is there
	copyAfterCreate    = "copy-after-create"    // the store has a multipart upload that nobody noted
	copyAfterNote      = "copy-after-note"      // its id is noted, no part is copied
	copyAfterPart      = "copy-after-part"      // two parts are copied, the piece is not done
	copyAfterPiece     = "copy-after-piece"     // the first piece and the next one's job are written
	copyBeforeComplete = "copy-before-complete" // all parts are copied
	copyAfterComplete  = "copy-after-complete"  // the copy stands, the step's result is not written
	copyAfterResult    = "copy-after-result"    // the step's result is written
	copyStalls         = "copy-stalls"          // does not kill: the store copies no part
	copyPieceSize      = 5 << 20
	copyFileSize       = 6*copyPieceSize + 100
)

// copySeams make a daemon that copies in pieces, and dies at a point of it.
func copySeams(point string) seams {
	die := func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL); select {} }
	s := seams{copyLimit: copyPieceSize, copyPiece: 1}
	s.transport = func(rt http.RoundTripper) http.RoundTripper { return &dyingCopy{next: rt, point: point, die: die} }
	s.advance = func(a workflow.Advance) workflow.Advance {
		return func(ctx context.Context, t workflow.Transition) error {
			err := a(ctx, t)
			if err != nil {
				return err
			}
			switch p := t.Progress; {
			case p == nil && point == copyAfterResult && t.Wait == nil:
				die()
			case p == nil:
			case t.Next != nil && point == copyAfterPiece,
				t.Next == nil && point == copyAfterIntent,
				t.Next == nil && point == copyAfterNote && !bytes.HasSuffix(p.State, []byte(` "}`)): // it has an UploadId
				die()
			}
			return nil
		}
	}
	return s
}

// dyingCopy dies at requests for a copy.
type dyingCopy struct {
	next  http.RoundTripper
	point string
	die   func()
	parts atomic.Int32
}

func (t *dyingCopy) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	ours := strings.Contains(r.URL.Path, "/processed/")
	create := ours && r.Method == http.MethodPost && q.Has("uploads")
	part := ours && r.Method == http.MethodPut && r.Header.Get("x-amz-copy-source") != ""
	complete := ours && r.Method == http.MethodPost && q.Has("uploadId")
	switch {
	case part && t.point == copyStalls:
		return nil, errors.New("the store does not answer")
	case complete && t.point == copyBeforeComplete:
		t.die()
	}
	res, err := t.next.RoundTrip(r)
	if err != nil || res.StatusCode >= 300 {
		return res, err
	}
	if create && t.point == copyAfterCreate || complete && t.point == copyAfterComplete ||
		part && t.point == copyAfterPart && t.parts.Add(1) == 2 {
		t.die()
	}
	return res, nil
}

// TestCopyCrashPoints kills the daemon between each pair of adjacent points of a copy in pieces, starts it again, and looks
// for the whole copy, no part of which was copied again that was noted, and no multipart upload that stays.
func TestCopyCrashPoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		point        string
		marked       bool // the copy must be marked as repeated
		least, most  int  // parts that the second daemon copies
		unmarkedOnly bool // it must not be
	}{
		{point: copyAfterIntent, marked: true, least: 6, most: 6},
		{point: copyAfterCreate, marked: true, least: 6, most: 6},
		{point: copyAfterNote, marked: true, least: 6, most: 6},
		{point: copyAfterPart, marked: true, least: 2, most: 4}, // the other two of the piece may be there too
		{point: copyAfterPiece, least: 2, most: 2},
		{point: copyBeforeComplete, marked: true},
		{point: copyAfterComplete, marked: true},
		{point: copyAfterResult, unmarkedOnly: true},
	} {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			first := startDaemon(t, startOptions{})
			whole, _ := first.attachWorkflows()
			first.stop()
			dying := startDaemon(t, startOptions{data: first.data, crash: c.point})
			content := noise(copyFileSize)
			dying.putUntilDeath(content, false)
			if err := dying.awaitEnd(); !killed(err) {
				t.Fatalf("the daemon ended with %v, not by its own kill", err)
			}
			p := startDaemon(t, startOptions{data: first.data, crash: copyLives})
			e := p.awaitExecution(whole, "crash.bin")
			if e.Status != types.ExecutionStatusCompleted {
				t.Errorf("execution ended as %s: %+v", e.Status, e.Results)
			}
			if got := p.object("processed/crash.bin"); !bytes.Equal(got, content) {
				t.Errorf("the copy is %s, want %s", sum(got), sum(content))
			}
			if u := p.danglingUploads(); len(u) != 0 {
				t.Errorf("multipart uploads left: %v", u)
			}
			if n := int(p.metric(`transferd_s3_requests_total{op="UploadPartCopy",result="ok"}`)); n < c.least || n > c.most {
				t.Errorf("%d parts copied after the crash, want %d to %d", n, c.least, c.most)
			}
			starts := p.stepStarts()[aws.ToString(e.ExecutionId)]
			copied := 0
			for start := range starts {
				if strings.Contains(start, "COPY") {
					copied++
				}
			}
			if _, unmarked := repeats(starts); unmarked != 0 || c.marked && copied != 2 || c.unmarkedOnly && copied != 1 {
				t.Errorf("starts %v", starts)
			}
		})
	}
}

// TestCopyOfADeletedServer: what is there of a copy goes when its server is deleted.
func TestCopyOfADeletedServer(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{crash: copyStalls})
	whole, _ := p.attachWorkflows()
	p.putUntilDeath(noise(copyFileSize), false)
	p.await("a copy that has begun", func() bool {
		u := p.danglingUploads()
		return len(u) == 1 && strings.Contains(u[0], "processed/crash.bin")
	})
	server := p.env["SERVER_ID"]
	if _, err := p.api().UpdateServer(p.t.Context(), &transfer.UpdateServerInput{ServerId: &server, WorkflowDetails: &types.WorkflowDetails{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.api().StopServer(p.t.Context(), &transfer.StopServerInput{ServerId: &server}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.api().DeleteServer(p.t.Context(), &transfer.DeleteServerInput{ServerId: &server}); err != nil {
		t.Fatal(err)
	}
	if e := p.awaitExecution(whole, "crash.bin"); e.Status != types.ExecutionStatusException {
		t.Errorf("the execution ended as %s", e.Status)
	}
	p.await("no multipart upload", func() bool { return len(p.danglingUploads()) == 0 })
}

// copyGate is a proxy in front of a store. Of the parts that are to be copied it lets some through, and holds the others as
// long as they are asked for; once it is open it holds none that comes.
type copyGate struct {
	endpoint string
	through  *httputil.ReverseProxy

	mu     sync.Mutex
	left   int // how many it lets through
	open   bool
	held   int            // parts whose requests wait now
	copied map[string]int // how often the store has copied a part, by its number
}

func startCopyGate(t *testing.T, store string, parts int) *copyGate {
	t.Helper()
	to, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	g := &copyGate{left: parts, copied: map[string]int{}}
	g.through = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // which is signed
	}, ModifyResponse: func(res *http.Response) error {
		if n := copiedPart(res.Request); n != "" && res.StatusCode == http.StatusOK {
			g.mu.Lock()
			g.copied[n]++
			g.mu.Unlock()
		}
		return nil
	}}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	g.endpoint = s.URL
	return g
}

// copiedPart is the number of the part that a request copies; "" if it does something else.
func copiedPart(r *http.Request) string {
	if r.Header.Get("x-amz-copy-source") == "" {
		return ""
	}
	return r.URL.Query().Get("partNumber")
}

func (g *copyGate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if copiedPart(r) != "" && g.holds() {
		<-r.Context().Done()
		g.mu.Lock()
		g.held--
		g.mu.Unlock()
		return
	}
	g.through.ServeHTTP(w, r)
}

func (g *copyGate) holds() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open || g.left > 0 {
		g.left--
		return false
	}
	g.held++
	return true
}

// TestCopyTakenOver: of two daemons on one PostgreSQL one is killed for good with the second piece of a copy half done. The
// other one copies what is missing and nothing twice, marks that as a repeat, and goes on to the steps behind the copy.
func TestCopyTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gate := startCopyGate(t, r.endpoint, 5)
	r.endpoint, r.crash = gate.endpoint, copyLives
	for range 2 {
		r.launch(t.TempDir())
	}
	for _, p := range r.nodes {
		r.awaitNode(p)
	}
	r.furnish()
	content := noise(copyFileSize)
	dying, heir := r.nodes[0], r.nodes[1]
	dying.putUntilDeath(content, false)
	dying.await("five parts are there, another is asked for", func() bool {
		gate.mu.Lock()
		defer gate.mu.Unlock()
		return len(gate.copied) == 5 && gate.held == 1
	})
	if len(heir.logEntries("type", "StepContinued")) > 0 { // any node may have the second piece
		dying, heir = heir, dying
	}
	dying.kill()
	killed := time.Now()
	gate.mu.Lock()
	gate.open = true
	gate.mu.Unlock()
	e := heir.awaitExecution(r.whole, "crash.bin")
	t.Logf("the execution had ended %v after the kill", time.Since(killed).Round(time.Millisecond))
	if e.Status != types.ExecutionStatusCompleted {
		t.Errorf("execution ended as %s", shown(e))
	}
	if got := heir.object("processed/crash.bin"); !bytes.Equal(got, content) {
		t.Errorf("the copy is %s, want %s", sum(got), sum(content))
	}
	if u := heir.danglingUploads(); len(u) != 0 {
		t.Errorf("multipart uploads left: %v", u)
	}
	gate.mu.Lock()
	defer gate.mu.Unlock()
	if want := map[string]int{"1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "6": 1}; !maps.Equal(gate.copied, want) {
		t.Errorf("parts copied %v", gate.copied)
	}
	starts := heir.stepStarts()[aws.ToString(e.ExecutionId)]
	if starts["steps COPY copy attempt 2"] != 1 {
		t.Errorf("the heir started %v", starts)
	}
}

// TestLargeCopy: a file above 5 GiB, which no request copies whole, is copied by the product as shipped, which is killed when
// some of the parts are there. The copy is what was sent, and no part of it was copied twice.
func TestLargeCopy(t *testing.T) {
	if !*load {
		t.Skip("needs 16 GiB of disk: run it with -load (make load)")
	}
	const size, parts = 5<<30 + 100<<20, 11 // of 512 MiB, the last of 100
	p := startDaemon(t, startOptions{program: product(t)})
	whole, _ := p.attachWorkflows()
	want, err := p.putStream("large.bin", seed(), size)
	if err != nil {
		t.Fatal(err)
	}
	begun, there := time.Now(), 0
	p.await("some parts are copied", func() bool { there = p.partsOf("processed/large.bin"); return there > 2 })
	p.kill()
	again := startDaemon(t, startOptions{program: product(t), data: p.data})
	var ended []*types.DescribedExecution
	for have := 0; len(ended) == 0; {
		again.await("more of the copy", func() bool {
			ended = again.executions(whole, "large.bin")
			if n := again.partsOf("processed/large.bin"); n > have {
				have = n
				return true
			}
			return len(ended) == 1 && ended[0].Status != types.ExecutionStatusInProgress
		})
		if len(ended) == 1 && ended[0].Status == types.ExecutionStatusInProgress {
			ended = nil
		}
	}
	copied := int(again.metric(`transferd_s3_requests_total{op="UploadPartCopy",result="ok"}`))
	t.Logf("%d MiB copied in %v, with %d of %d parts there at the kill and %d copied after it", size>>20,
		time.Since(begun).Round(time.Second), there, parts, copied)
	if ended[0].Status != types.ExecutionStatusCompleted || there+copied > parts {
		t.Errorf("execution ended as %s", shown(ended[0]))
	}
	for _, name := range []string{"large.bin", "processed/large.bin"} {
		if got := fmt.Sprintf("%d bytes %s", size, sumOfFile(t, filepath.Join(p.data, "s3", devBucket, name))); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if u := again.danglingUploads(); len(u) != 0 {
		t.Errorf("multipart uploads left: %v", u)
	}
}

// partsOf is how many parts the multipart upload of a key has; 0 if there is none.
func (p *proc) partsOf(key string) (n int) {
	p.t.Helper()
	for _, u := range p.danglingUploads() {
		if id, ours := strings.CutPrefix(u, key+" "); ours {
			out, err := p.s3().ListParts(p.t.Context(), &s3.ListPartsInput{Bucket: aws.String(devBucket), Key: &key, UploadId: &id})
			if err != nil {
				continue // it is completed
			}
			n += len(out.Parts)
		}
	}
	return n
}

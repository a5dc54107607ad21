package main

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// crashVariable names the point at which the daemon under test kills itself, as kill -9 would.
const crashVariable = "TRANSFERD_TEST_CRASH"

// The points, in the order in which an upload passes them.
const (
	crashAfterBegin     = "after-begin"            // the row is written, no byte is stored
	crashAfterCreate    = "after-create-multipart" // the store has a multipart upload that nobody noted
	crashAfterNote      = "after-note"             // its id is noted, no part is stored
	crashAfterPart      = "after-part"             // one part is stored
	crashAfterCommit    = "after-commit"           // the object is there, the verdict is not
	crashAfterEnd       = "after-end"              // verdict and execution are written, the client has no answer
	crashAfterEffect    = "after-effect"           // a step has done its work, its result is not written
	crashAfterStep      = "after-step"             // a step's result is written
	crashInPartialEnd   = "after-partial-commit"   // a cut file is committed, its verdict is not written
	crashAfterDoneSteps = "after-last-step"        // the execution is finished
	crashAfterAwait     = "after-await"            // an execution waits for a callback, its function is not called
	crashAfterInvoke    = "after-invoke"           // the function is called, which nobody noted
	crashAfterCalled    = "after-called"           // that it is called is written
	crashAfterIntent    = "after-intent"           // what is to be done to a file is written, it is not done
	crashBeforeRecord   = "before-record"          // it is done, that is not written
	crashAfterRecord    = "after-record"           // that is written, the client has no answer
)

// crashSeams puts the named crash between the rooms.
func crashSeams(point string) seams {
	if strings.HasPrefix(point, copyPoints) {
		return copySeams(point)
	}
	var s seams
	die := func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL); select {} }
	switch point {
	case crashAfterBegin, crashAfterNote, crashAfterEnd:
		s.journal = func(j session.Journal) session.Journal { return &dyingJournal{j, point, die} }
	case crashAfterCreate, crashAfterPart:
		s.transport = func(rt http.RoundTripper) http.RoundTripper { return &dyingTransport{next: rt, point: point, die: die} }
	case crashAfterCommit, crashInPartialEnd:
		s.stores = func(st storage.Stores) storage.Stores { return dyingStores{st, die} }
	case crashAfterIntent, crashBeforeRecord, crashAfterRecord:
		s.recorder = func(r session.Recorder) session.Recorder { return dyingRecorder{r, point, die} }
	case crashAfterEffect:
		s.step = func(st workflow.Step) workflow.Step { return dyingStep{st, die} }
	case crashAfterAwait, crashAfterInvoke, crashAfterCalled:
		s.advance = func(a workflow.Advance) workflow.Advance {
			return func(ctx context.Context, t workflow.Transition) error {
				called := t.Wait != nil && t.Wait.Called
				if point == crashAfterInvoke && called {
					die()
				}
				err := a(ctx, t)
				if err == nil && t.Wait != nil && (point == crashAfterAwait || point == crashAfterCalled && called) {
					die()
				}
				return err
			}
		}
	case crashAfterStep, crashAfterDoneSteps:
		s.advance = func(a workflow.Advance) workflow.Advance {
			return func(ctx context.Context, t workflow.Transition) error {
				if err := a(ctx, t); err != nil {
					return err
				}
				if (t.Next == nil) == (point == crashAfterDoneSteps) {
					die()
				}
				return nil
			}
		}
	}
	return s
}

type dyingJournal struct {
	session.Journal
	point string
	die   func()
}

func (j *dyingJournal) Begin(ctx context.Context, u session.Upload) error {
	err := j.Journal.Begin(ctx, u)
	if err == nil && j.point == crashAfterBegin {
		j.die()
	}
	return err
}

func (j *dyingJournal) Note(ctx context.Context, id, token string) error {
	err := j.Journal.Note(ctx, id, token)
	if err == nil && j.point == crashAfterNote {
		j.die()
	}
	return err
}

func (j *dyingJournal) End(ctx context.Context, u session.Upload, v session.Verdict) error {
	err := j.Journal.End(ctx, u, v)
	if err == nil && j.point == crashAfterEnd {
		j.die()
	}
	return err
}

// dyingTransport dies when the store has answered the request that the point names.
type dyingTransport struct {
	next  http.RoundTripper
	point string
	die   func()
	parts atomic.Int32
}

func (t *dyingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err != nil || res.StatusCode >= 300 {
		return res, err
	}
	create := r.Method == http.MethodPost && strings.Contains(r.URL.RawQuery, "uploads")
	part := r.Method == http.MethodPut && strings.Contains(r.URL.RawQuery, "partNumber=")
	if create && t.point == crashAfterCreate || part && t.point == crashAfterPart && t.parts.Add(1) == 2 {
		t.die()
	}
	return res, nil
}

type dyingStores struct {
	storage.Stores
	die func()
}

func (s dyingStores) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	b, err := s.Stores.Backend(ctx, domain, store)
	if err != nil {
		return nil, err
	}
	return dyingBackend{b, s.die}, nil
}

type dyingBackend struct {
	storage.Backend
	die func()
}

func (b dyingBackend) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u, err := b.Backend.Create(ctx, name, opt)
	if err != nil {
		return nil, err
	}
	return dyingUpload{u, b.die}, nil
}

type dyingUpload struct {
	storage.Upload
	die func()
}

func (u dyingUpload) Commit(ctx context.Context) (storage.Object, error) {
	o, err := u.Upload.Commit(ctx)
	if err == nil {
		u.die()
	}
	return o, err
}

type dyingStep struct {
	workflow.Step
	die func()
}

func (s dyingStep) Run(ctx context.Context, in *workflow.Input) error {
	if err := s.Step.Run(ctx, in); err != nil {
		return err
	}
	s.die()
	return nil
}

type dyingRecorder struct {
	session.Recorder
	point string
	die   func()
}

func (r dyingRecorder) Intend(ctx context.Context, d session.Deed) error {
	err := r.Recorder.Intend(ctx, d)
	if err == nil && r.point == crashAfterIntent {
		r.die()
	}
	return err
}

func (r dyingRecorder) Record(ctx context.Context, d session.Deed) error {
	if r.point == crashBeforeRecord {
		r.die()
	}
	err := r.Recorder.Record(ctx, d)
	if err == nil {
		r.die()
	}
	return err
}

package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/storage"
)

// resumers is how many dead uploads are worked on at once.
const resumers = 4

// RecoverConfig is what recovery works with.
type RecoverConfig struct {
	Node string // whose uploads are dead: this process's name in the journal's rows
	// Unfinished lists the uploads of a node that were begun and not ended.
	Unfinished func(ctx context.Context, node string) ([]Upload, error)
	Journal    Journal
	Stores     storage.Stores
	Realm      server.Realm // where the log's ARNs are made
	Log        *slog.Logger
	Metrics    *Metrics
	Now        func() time.Time
	// Retry is the wait after the first time that a store or the journal does not answer; it doubles up to a hundred
	// times that. Default 1 second.
	Retry time.Duration
	// Timeout bounds one try with one upload. Default 5 minutes.
	Timeout time.Duration
}

// Recovery ends the uploads that a process left behind when it died: partial, evidence crash; complete if they were
// committed and only their verdict was missing.
type Recovery struct {
	cfg     RecoverConfig
	settled chan struct{}

	mu   sync.Mutex // guards dead
	dead map[string]Upload
}

// Recover reads what was left behind. It must be called before the first session of this node starts, for a row of a
// living upload looks the same. The work itself is Run's, so that a store that is down does not hold up the start;
// meanwhile nobody may upload to the places in question (Config.Unsettled).
func Recover(ctx context.Context, cfg RecoverConfig) (*Recovery, error) {
	common := Config{Log: cfg.Log, Metrics: cfg.Metrics, Now: cfg.Now}
	common.defaults()
	cfg.Log, cfg.Metrics, cfg.Now = common.Log, common.Metrics, common.Now
	if cfg.Retry <= 0 {
		cfg.Retry = time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Minute
	}
	uploads, err := cfg.Unfinished(ctx, cfg.Node)
	if err != nil {
		return nil, fmt.Errorf("list unfinished uploads: %w", err)
	}
	r := &Recovery{cfg: cfg, settled: make(chan struct{}), dead: make(map[string]Upload, len(uploads))}
	for _, u := range uploads {
		r.dead[u.ID] = u
	}
	cfg.Metrics.pending.Add(float64(len(r.dead)))
	return r, nil
}

// Unsettled says whether an upload to this place awaits its verdict.
func (r *Recovery) Unsettled(at storage.Location) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.dead {
		if c := u.Committed; u.Location == at || c != nil && c.Renaming != nil && *c.Renaming == at {
			return true
		}
	}
	return false
}

// Pending is how many uploads await their verdict.
func (r *Recovery) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.dead)
}

// Settled is closed when every upload has its verdict.
func (r *Recovery) Settled() <-chan struct{} { return r.settled }

// Run gives the uploads their verdicts, for as long as that takes, and returns when ctx ends.
func (r *Recovery) Run(ctx context.Context) error {
	queue := make(chan Upload)
	var workers sync.WaitGroup
	for range resumers {
		workers.Go(func() {
			for u := range queue {
				r.settle(ctx, u)
			}
		})
	}
	r.feed(ctx, queue)
	close(queue)
	workers.Wait()
	if r.Pending() == 0 {
		close(r.settled)
	}
	<-ctx.Done()
	return nil
}

// feed hands out every upload once.
func (r *Recovery) feed(ctx context.Context, queue chan<- Upload) {
	r.mu.Lock()
	uploads := make([]Upload, 0, len(r.dead))
	for _, u := range r.dead {
		uploads = append(uploads, u)
	}
	r.mu.Unlock()
	for _, u := range uploads {
		select {
		case queue <- u:
		case <-ctx.Done():
			return
		}
	}
}

// settle tries until the upload has its verdict. A try that is cut short by ctx is made again at the next start.
func (r *Recovery) settle(ctx context.Context, u Upload) {
	for wait := r.cfg.Retry; ; wait = min(2*wait, 100*r.cfg.Retry) {
		err := r.try(ctx, u)
		if err == nil {
			r.mu.Lock()
			delete(r.dead, u.ID)
			r.mu.Unlock()
			r.cfg.Metrics.pending.Dec()
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.cfg.Log.Warn("recovery of an upload goes on later", "upload-id", u.ID, "session-id", u.Session,
			"path", u.Location.Path(), "wait", wait.String(), "error", err.Error())
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + rand.N(wait/4+1)): // not all at once when the store is back
		}
	}
}

// try resumes an upload and writes its verdict.
func (r *Recovery) try(ctx context.Context, u Upload) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	if c := u.Committed; c != nil && (c.Waits || c.Renaming != nil) {
		v, err := r.recoverTemp(ctx, u, *c)
		if err != nil {
			return err
		}
		return r.end(ctx, u, v, nil)
	} else if c != nil {
		// The client had its answer, or was about to get it: what it did with it nobody will know.
		return r.end(ctx, u, Verdict{Outcome: Complete, Evidence: Crash, Object: c.Object, Received: c.Received, Ended: r.cfg.Now()}, nil)
	}
	obj, err := r.resume(ctx, u)
	v := Verdict{Outcome: Partial, Evidence: Crash, Object: obj, Received: max(obj.Size-u.Base, u.Received), Ended: r.cfg.Now()}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, errors.ErrUnsupported) {
		// The bucket is gone, or another file stands where the upload must not replace one, or the store keeps nothing
		// of an upload before its Commit: there is no file that a workflow could run on, and no later try will find one.
		v = Verdict{Outcome: Refused, Evidence: Crash, Received: u.Received, Ended: v.Ended}
	} else if err != nil {
		return err
	}
	return r.end(ctx, u, v, err)
}

// end writes a verdict; cause is what the log says of a refused one.
func (r *Recovery) end(ctx context.Context, u Upload, v Verdict, cause error) error {
	if err := r.cfg.Journal.End(ctx, u, v); errors.Is(err, ErrElsewhere) {
		return nil // its client came back through another process and renamed it
	} else if err != nil {
		return fmt.Errorf("end upload: %w", err)
	}
	r.cfg.Metrics.ended(u, v)
	r.report(u, v, cause)
	return nil
}

func (r *Recovery) resume(ctx context.Context, u Upload) (storage.Object, error) {
	stores, err := r.stores(ctx, u)
	if err != nil {
		return storage.Object{}, err
	}
	b, err := stores.Backend(ctx, u.Location.Domain, u.Location.Store)
	if err != nil {
		return storage.Object{}, fmt.Errorf("find store: %w", err)
	}
	resumer, ok := b.(storage.Resumer)
	if !ok {
		return storage.Object{}, fmt.Errorf("resume upload: %w", errors.ErrUnsupported)
	}
	obj, err := resumer.Resume(ctx, u.Location.Name, storage.DeadUpload{ID: u.ID, Token: u.Token, Begun: u.Began,
		Metadata: metadata(u), Modify: u.Modify, Exclusive: u.Exclusive})
	if err != nil {
		return storage.Object{}, fmt.Errorf("resume upload: %w", err)
	}
	return obj, nil
}

// stores are those that the session of an upload had.
func (r *Recovery) stores(ctx context.Context, u Upload) (storage.Stores, error) {
	return actAs(ctx, r.cfg.Stores, u.Identity)
}

// actAs gives the stores that a session of this identity had. Those that cannot be had any more are no reason to give up:
// until somebody sees to the role or the user, what is to be recovered stays what it is.
func actAs(ctx context.Context, all storage.Stores, id storage.Identity) (storage.Stores, error) {
	if id.Role == "" && id.Posix == nil {
		return all, nil
	}
	i, ok := all.(storage.Impersonator)
	if !ok {
		return nil, fmt.Errorf("recover: the stores act for nobody else: %w", fs.ErrPermission)
	}
	stores, err := i.As(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("act for the user: %s", err) // not as what it wraps: it says nothing about the file
	}
	return stores, nil
}

// objectOf is a file that stands.
func objectOf(info fs.FileInfo) storage.Object {
	obj, _ := info.Sys().(storage.Object) // where the store knows more than the size
	obj.Size, obj.ModTime = info.Size(), info.ModTime()
	return obj
}

// report logs a verdict as the session would have.
func (r *Recovery) report(u Upload, v Verdict, cause error) {
	log := r.cfg.Log.With("session-id", u.Session, "resource-arn", r.cfg.Realm.ServerARN(u.Server))
	attrs := []slog.Attr{
		slog.String("path", v.At(u).Path()), slog.String("upload-id", u.ID),
		slog.String("bytes-in", strconv.FormatInt(v.Received, 10)),
		slog.String("verdict", string(v.Outcome)), slog.String("evidence", string(v.Evidence)),
	}
	switch v.Outcome {
	case Partial:
		entry(log, slog.LevelInfo, "PARTIAL_CLOSE", attrs...)
		return
	case Complete:
		entry(log, slog.LevelInfo, "CLOSE", attrs...)
		return
	}
	entry(log, slog.LevelError, "ERROR", append(attrs, slog.String("operation", "CLOSE"),
		slog.String("message", message(cause)), slog.String("error", cause.Error()))...)
}

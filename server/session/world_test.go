package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errDead  = errors.New("process is dead")
	errFault = errors.New("far side: secret text")
)

// world is the far side of a session: a journal and a store that remember what was done in which order, fail where they
// are told to, and can die at any point: from then on nothing that is asked has an effect. They break the test when the
// order of an upload is broken.
type world struct {
	t *testing.T

	mu       sync.Mutex // guards what follows
	events   []string   // "begin", "write", "commit", …
	rows     map[string]*row
	objects  map[string][]byte
	multi    map[string][]byte // token → what arrived of a dead upload at the far side
	faults   map[string]int    // event → how many times it fails from now on
	dieAfter string
	dead     bool
	noBucket bool
	modify   string        // "anywhere", "onwards": how files can be changed
	sparse   bool          // writes may lie anywhere, and holes are kept
	block    chan struct{} // closed by a WriteAt that begins to block, if set
	written  chan struct{} // WriteAt waits for it, if set, deaf to its context
	deaf     chan struct{} // closed when it waits
	slow     chan struct{} // Commit waits for it, if set
	inCommit chan struct{} // gets a value when Commit begins to wait
	ends     int
	logged   bytes.Buffer
}

type row struct {
	upload  session.Upload
	verdict *session.Verdict
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, rows: map[string]*row{}, objects: map[string][]byte{}, multi: map[string][]byte{},
		faults: map[string]int{}}
}

// do makes something happen, or not.
func (w *world) do(event string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	if w.faults[event] > 0 {
		w.faults[event]--
		w.events = append(w.events, event+"!")
		return errFault
	}
	if err := effect(); err != nil {
		return err
	}
	w.events = append(w.events, event)
	if w.dieAfter == event {
		w.dead = true
		return errDead
	}
	return nil
}

func (w *world) fail(event string, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[event] = times
}

// Begin, Note and End are the journal.
func (w *world) Begin(_ context.Context, u session.Upload) error {
	return w.do("begin", func() error {
		if _, twice := w.rows[u.ID]; twice {
			w.t.Errorf("begun twice: %s", u.ID)
		}
		w.rows[u.ID] = &row{upload: u}
		return nil
	})
}

func (w *world) Note(_ context.Context, id, token string) error {
	return w.do("note", func() error {
		w.rows[id].upload.Token = token
		return nil
	})
}

func (w *world) Committed(_ context.Context, id string, c session.Commit) error {
	return w.do("committed", func() error {
		w.rows[id].upload.Committed = &c
		return nil
	})
}

// End does not look at its context: the journal's timeout is short here, and a test must not depend on who is faster.
func (w *world) End(_ context.Context, u session.Upload, v session.Verdict) error {
	return w.do("end", func() error {
		r := w.rows[u.ID]
		if r == nil {
			w.t.Errorf("ended without being begun: %s", u.ID)
			return errFault
		}
		if r.verdict == nil {
			r.verdict = &v
			w.ends++
		}
		return nil
	})
}

func (w *world) unfinished(_ context.Context, node string) ([]session.Upload, error) {
	var list []session.Upload
	err := w.do("unfinished", func() error {
		for _, r := range w.rows {
			if r.verdict == nil && r.upload.Node == node {
				list = append(list, r.upload)
			}
		}
		return nil
	})
	return list, err
}

// Backend is the stores: one bucket.
func (w *world) Backend(_ context.Context, _, store string) (storage.Backend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if store != "bucket" || w.noBucket {
		return nil, fmt.Errorf("bucket %s: %w", store, fs.ErrNotExist)
	}
	if w.modify != "" {
		return modifier{backend{w}}, nil
	}
	return backend{w}, nil
}

// modifier is a backend whose files can be changed.
type modifier struct{ backend }

func (m modifier) CanModify() bool { return m.w.modify == "anywhere" }

type backend struct{ w *world }

func (b backend) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if data, ok := b.w.objects[name]; ok {
		return info{name: path.Base(name), size: int64(len(data))}, nil
	}
	return nil, fs.ErrNotExist
}

func (b backend) ReadDir(_ context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		for key, data := range b.w.objects {
			if path.Dir("/"+key) == path.Clean("/"+name) && !yield(info{name: path.Base(key), size: int64(len(data))}, nil) {
				return
			}
		}
	}
}

func (b backend) Open(ctx context.Context, name string) (storage.Reader, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	data, ok := b.w.objects[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return &reader{ctx: ctx, r: bytes.NewReader(data)}, nil
}

func (b backend) Mkdir(_ context.Context, name string) error {
	return b.w.do("mkdir", func() error { b.w.objects[name+"/"] = nil; return nil })
}

func (b backend) Rename(_ context.Context, oldName, newName string) error {
	return b.w.do("rename", func() error {
		data, ok := b.w.objects[oldName]
		if !ok {
			return fs.ErrNotExist
		}
		b.w.objects[newName] = data
		delete(b.w.objects, oldName)
		return nil
	})
}

func (b backend) Remove(_ context.Context, name string) error {
	return b.w.do("remove", func() error { delete(b.w.objects, name); return nil })
}

func (b backend) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	err := b.w.do("create", func() error { return nil })
	if err != nil {
		return nil, err
	}
	u := &upload{w: b.w, ctx: ctx, name: name, opt: opt}
	if opt.Modify {
		b.w.mu.Lock()
		defer b.w.mu.Unlock()
		u.data = bytes.Clone(b.w.objects[name])
		b.w.events[len(b.w.events)-1] = "modify"
	}
	return u, nil
}

// Resume finds what the upload left in the store.
func (b backend) Resume(_ context.Context, name string, dead storage.DeadUpload) (storage.Object, error) {
	var obj storage.Object
	err := b.w.do("resume", func() error {
		if done, ok := b.w.objects["id:"+dead.ID]; ok {
			obj.Size = int64(len(done))
			return nil
		}
		if dead.Modify && dead.Token == "" {
			data, ok := b.w.objects[name]
			if !ok {
				return fs.ErrNotExist
			}
			obj.Size = int64(len(data))
			return nil
		}
		if _, taken := b.w.objects[name]; taken && dead.Exclusive {
			return fs.ErrExist
		}
		data := b.w.multi[dead.Token]
		b.w.objects[name] = data
		b.w.objects["id:"+dead.ID] = data
		obj.Size = int64(len(data))
		return nil
	})
	return obj, err
}

// upload stores what comes at once, as a store with tiny parts: after a crash it is found by its token.
type upload struct {
	w     *world
	ctx   context.Context
	name  string
	opt   storage.CreateOptions
	data  []byte
	noted bool
	busy  atomic.Bool
	over  bool
}

func (u *upload) enter() func() {
	if !u.busy.CompareAndSwap(false, true) {
		u.w.t.Error("two goroutines in one upload")
	}
	return func() { u.busy.Store(false) }
}

func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	defer u.enter()()
	u.w.mu.Lock()
	block, written := u.w.block, u.w.written
	u.w.mu.Unlock()
	if written != nil {
		close(u.w.deaf)
		<-written
	}
	if block != nil && u.noted {
		close(block)
		<-u.ctx.Done()
		return 0, u.ctx.Err()
	}
	if !u.noted {
		if err := u.opt.Note(u.ctx, u.opt.ID); err != nil {
			return 0, err
		}
		u.noted = true
	}
	err := u.w.do("write", func() error {
		if u.over {
			u.w.t.Error("write after the end")
		}
		if r := u.w.rows[u.opt.ID]; r == nil || r.verdict != nil {
			u.w.t.Error("a byte reached the storage outside of begin and end")
		}
		if gap := int(off) - len(u.data); u.w.sparse && gap > 0 {
			u.data = append(u.data, make([]byte, gap)...)
		}
		if off != int64(len(u.data)) && !u.w.sparse && (!u.opt.Modify || off > int64(len(u.data))) {
			return storage.ErrRandomAccess
		}
		u.data = append(u.data[:off:off], append(bytes.Clone(p), u.data[min(int(off)+len(p), len(u.data)):]...)...)
		u.w.multi[u.opt.ID] = u.data
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (u *upload) Commit(ctx context.Context) (storage.Object, error) {
	defer u.enter()()
	u.w.mu.Lock()
	slow := u.w.slow
	u.w.mu.Unlock()
	if slow != nil {
		u.w.inCommit <- struct{}{}
		select {
		case <-slow:
		case <-ctx.Done():
			return storage.Object{}, ctx.Err()
		}
	}
	err := u.w.do("commit", func() error {
		if u.over || u.w.rows[u.opt.ID] == nil {
			u.w.t.Error("commit after the end, or without a row")
		}
		if _, stands := u.w.objects[u.name]; stands && u.opt.Exclusive {
			return fs.ErrExist
		}
		u.over = true
		u.w.objects[u.name], u.w.objects["id:"+u.opt.ID] = u.data, u.data
		return nil
	})
	if err != nil {
		return storage.Object{}, err
	}
	return storage.Object{Size: int64(len(u.data)), ETag: "e"}, nil
}

func (u *upload) Abort(context.Context) error {
	defer u.enter()()
	return u.w.do("abort", func() error {
		if u.over {
			u.w.t.Error("abort after the end")
		}
		u.over = true
		delete(u.w.multi, u.opt.ID)
		return nil
	})
}

type reader struct {
	ctx context.Context
	r   *bytes.Reader
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	return r.r.ReadAt(p, off)
}

func (r *reader) Close() error { return nil }

type info struct {
	name string
	size int64
}

func (i info) Name() string     { return i.name }
func (i info) Size() int64      { return i.size }
func (info) Mode() fs.FileMode  { return 0o644 }
func (info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool      { return strings.HasSuffix(i.name, "/") }
func (i info) Sys() any         { return storage.Object{ETag: "etag of " + i.name} }
func (w *world) history() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.events, " ")
}

// Write takes the log; slog's handlers write one entry at a time.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged.Write(p)
}

func (w *world) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged.String()
}

func (w *world) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(w, nil)) }

func (w *world) object(name string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, ok := w.objects[name]
	return string(data), ok
}

// verdicts are the outcomes and evidences of all rows, "open" for those that have none.
func (w *world) verdicts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, r := range w.rows {
		if r.verdict == nil {
			list = append(list, "open")
			continue
		}
		list = append(list, fmt.Sprintf("%s/%s %d/%d", r.verdict.Outcome, r.verdict.Evidence, r.verdict.Object.Size,
			r.verdict.Received))
	}
	slices.Sort(list)
	return list
}

func (w *world) expect(history string, verdicts ...string) {
	w.t.Helper()
	if got := w.history(); got != history {
		w.t.Errorf("history: %s\nwant:    %s", got, history)
	}
	if got := w.verdicts(); !slices.Equal(got, verdicts) {
		w.t.Errorf("verdicts: %q, want %q", got, verdicts)
	}
}

func (w *world) manager(change ...func(*session.Config)) *session.Manager {
	w.t.Helper()
	cfg := session.Config{Node: "node-1", Journal: w, Log: w.logger(), JournalTimeout: 50 * time.Millisecond,
		CommitTimeout: 5 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	m := session.NewManager(cfg)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Wait(ctx); err != nil {
			w.t.Errorf("sessions or their goroutines are left: %v", err)
		}
	})
	return m
}

// session starts a session that the test ends.
func (w *world) session(m *session.Manager) *session.Session {
	w.t.Helper()
	view, err := vfs.New(vfs.Home{Directory: "/bucket/home", UserName: "anna"}, w)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := m.Start(w.t.Context(), session.Info{Server: "s-1", ServerARN: "arn:s-1", User: "anna", Protocol: "SFTP", SourceIP: "192.0.2.1"}, view)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *session.Session, name string) *session.File {
	t.Helper()
	f, err := s.Create(name, session.CreateOptions{Truncate: true})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, f *session.File, text string) {
	t.Helper()
	if n, err := f.WriteAt([]byte(text), f.Size()); err != nil || n != len(text) {
		t.Fatalf("WriteAt: %d, %v", n, err)
	}
}

func (w *world) recover(ctx context.Context) *session.Recovery {
	w.t.Helper()
	r, err := session.Recover(ctx, session.RecoverConfig{Node: "node-1", Unfinished: w.unfinished, Journal: w, Stores: w,
		Realm: server.Realm{Region: "r", Account: "000000000000"}, Log: w.logger(), Retry: time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// revive starts the next process, which may die too.
func (w *world) revive(dieAfter string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.dieAfter = false, dieAfter
}

func (w *world) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// crashed puts the row and the remains of an upload whose process died.
func (w *world) crashed(id, name, data string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows[id] = &row{upload: session.Upload{ID: id, Node: "node-1", Server: "s-1", Session: "0123456789abcdef", Protocol: "SFTP",
		Location: storage.Location{Domain: "S3", Store: "bucket", Name: name}, Received: 1, Token: id}}
	w.multi[id] = []byte(data)
}

// tick is the pause of a loop that looks for something.
func tick() <-chan time.Time { return time.After(time.Millisecond) }

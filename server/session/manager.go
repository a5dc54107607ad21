package session

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// ErrDraining is the answer to Start once the process is on its way out.
var ErrDraining = errors.New("no new sessions: shutting down")

// Config is what the sessions of a process share.
type Config struct {
	Node    string // names this process in the journal's rows
	Journal Journal
	Log     *slog.Logger
	Metrics *Metrics // default: counted and shown nowhere
	Now     func() time.Time
	// CommitTimeout bounds the storage's part of ending an upload, that is Commit or Abort. Default 5 minutes: the
	// last parts of a large file may still be on their way.
	CommitTimeout time.Duration
	// JournalTimeout bounds each entry into the journal, with its retries. Default 15 seconds.
	JournalTimeout time.Duration
	// Recorder is told of downloads, deletions, renames and directories; nil: nobody is.
	Recorder Recorder
	// Unsettled says whether an upload to this place awaits recovery: until it has its verdict no other may begin there,
	// because recovery would put the old bytes over the new. Usually Recovery.Unsettled; default: never.
	Unsettled func(storage.Location) bool
	// TempNames are patterns (path.Match, of a name without its directory) of names under which clients write files that
	// they rename when they are whole. The verdict on such a file waits for the rename and is about the name that it has
	// then. Default: DefaultTempNames; empty and not nil: none, as AWS. See CheckTempNames.
	TempNames []string
	// RenameTimeout bounds that wait: 10 minutes. RenameGrace bounds what is left of it once the session has ended, for
	// clients that lose their connection and come back: 1 minute. Then the upload is partial, under the temporary name.
	RenameTimeout, RenameGrace time.Duration
	// Adopt makes an upload this process's that waits for its rename at a place and is another's, who shares the journal: its
	// client may have come back here. Nil: nobody shares it.
	Adopt func(ctx context.Context, at storage.Location) (u Upload, found bool, err error)
	// Integrity also calls a closed file partial that is shorter than its client declared or has a hole. AWS does not.
	Integrity bool
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.CommitTimeout <= 0 {
		c.CommitTimeout = 5 * time.Minute
	}
	if c.JournalTimeout <= 0 {
		c.JournalTimeout = 15 * time.Second
	}
	if c.TempNames == nil {
		c.TempNames = DefaultTempNames()
	}
	if c.RenameTimeout <= 0 {
		c.RenameTimeout = 10 * time.Minute
	}
	if c.RenameGrace <= 0 {
		c.RenameGrace = time.Minute
	}
	if c.Unsettled == nil {
		c.Unsettled = func(storage.Location) bool { return false }
	}
}

// Manager holds the sessions of a process.
type Manager struct {
	cfg      Config
	temps    temps
	draining chan struct{} // closed by Wait

	mu       sync.Mutex // guards what follows
	sessions map[string]*Session
	work     int           // sessions and finishing goroutines
	idle     chan struct{} // made by Wait, closed when work is down to zero
}

// NewManager makes a Manager.
func NewManager(cfg Config) *Manager {
	cfg.defaults()
	return &Manager{cfg: cfg, temps: temps{at: map[storage.Location]*temp{}}, draining: make(chan struct{}),
		sessions: map[string]*Session{}}
}

// Info says whose session it is.
type Info struct {
	Server    server.ID
	ServerARN string
	User      string
	Protocol  string // SFTP, FTPS or FTP
	SourceIP  string
	Client    string // the client's version string
	Role      string
}

// Start begins the session of somebody who has logged in. Whoever starts it must End it. The view acts for the user from
// then on: an error that wraps fs.ErrPermission says that it cannot, and is a login refused. ctx bounds the call alone.
func (m *Manager) Start(ctx context.Context, info Info, view *vfs.FS) (*Session, error) {
	if view == nil {
		return nil, fmt.Errorf("session of %s: no view: %w", info.User, fs.ErrInvalid)
	}
	id := newID()
	view, err := view.As(ctx, roleSession(info, id))
	if err != nil {
		return nil, fmt.Errorf("session of %s: %w", info.User, err)
	}
	s := &Session{m: m, id: id, info: info, fs: view, began: m.cfg.Now(), files: map[*File]struct{}{},
		downloads: map[*Download]struct{}{}, ended: make(chan struct{})}
	s.log = m.cfg.Log.With("session-id", s.id, "resource-arn", info.ServerARN)
	if doubts := view.Doubts(); len(doubts) > 0 {
		s.log.Warn("the session policy asks for what is not evaluated: statements in doubt deny if they deny, and allow nothing if they allow",
			"user", info.User, "not-evaluated", strings.Join(doubts, ", "))
	}
	s.bytesIn = m.cfg.Metrics.bytes.WithLabelValues("in", info.Protocol)
	s.bytesOut = m.cfg.Metrics.bytes.WithLabelValues("out", info.Protocol)
	if !m.enter(s) {
		return nil, ErrDraining
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.cfg.Metrics.sessions.WithLabelValues(info.Protocol).Inc()
	return s, nil
}

// roleSession names a session to whoever lends its role: "username.sessionid@server-id", cut to 64 characters
// (transfer-api 3.3).
func roleSession(info Info, id string) string {
	name := info.User + "." + id + "@" + string(info.Server)
	return name[:min(64, len(name))]
}

// View is what a session looks like from outside.
type View struct {
	Info
	ID        string
	Began     time.Time
	OpenFiles int
}

// Sessions are the sessions that are open, the oldest first.
func (m *Manager) Sessions() []View {
	m.mu.Lock()
	open := make([]*Session, 0, len(m.sessions))
	for _, s := range m.sessions {
		open = append(open, s)
	}
	m.mu.Unlock()
	views := make([]View, 0, len(open))
	for _, s := range open {
		views = append(views, View{Info: s.info, ID: s.id, Began: s.began, OpenFiles: s.openFiles()})
	}
	slices.SortFunc(views, func(a, b View) int {
		if c := a.Began.Compare(b.Began); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return views
}

// Wait refuses new sessions and returns when every session has ended and nothing of them is under way any more, or with
// ctx's error. Uploads of ended sessions that wait for a rename become partial.
func (m *Manager) Wait(ctx context.Context) error {
	m.mu.Lock()
	if m.idle == nil {
		m.idle = make(chan struct{})
		close(m.draining)
		if m.work == 0 {
			close(m.idle)
		}
	}
	idle := m.idle
	m.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manager) enter(s *Session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle != nil {
		return false
	}
	m.sessions[s.id] = s
	m.work++
	return true
}

func (m *Manager) leave(s *Session) {
	m.mu.Lock()
	delete(m.sessions, s.id)
	m.mu.Unlock()
	m.cfg.Metrics.sessions.WithLabelValues(s.info.Protocol).Dec()
	m.done()
}

// spawn runs f in a goroutine that Wait waits for. Only a session that is open may call it.
func (m *Manager) spawn(f func()) {
	m.mu.Lock()
	m.work++
	m.mu.Unlock()
	go func() {
		defer m.done()
		f()
	}()
}

func (m *Manager) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.work--
	if m.work == 0 && m.idle != nil {
		close(m.idle)
	}
}

// finishing is the context of writes that end an upload: the session may be over, the upload is not.
func (m *Manager) finishing(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// newID makes a session id: 16 lower-case hexadecimal digits, as in AWS's logs (transfer-api 8.2).
func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newUploadID makes a UUID that begins with the time (RFC 9562, 5.7): the journal's indexes grow at their ends then, and
// uploads that come together share the pages that a commit writes.
func (m *Manager) newUploadID() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(m.cfg.Now().UnixMilli())<<16)
	rand.Read(b[6:]) // never fails
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

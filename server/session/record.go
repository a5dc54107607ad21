package session

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/transferd/transferd/storage"
)

// Recorder is told what clients do, apart from uploads, of which the journal knows. Each deed is told twice, before and after
// it: so a process that dies in between leaves an intent, and whoever finds it says how the deed ended (RecoverDeeds).
type Recorder interface {
	// Wants says whether anybody is to be told of such a deed. If not, neither of the others is called for it.
	Wants(kind DeedKind) bool
	// Intend keeps what somebody is about to do. It is durable once it returns; an error refuses the deed.
	Intend(ctx context.Context, d Deed) error
	// Record says how it ended, in the place of the intent of that ID; a second call for one intent changes nothing. It is
	// durable once it returns. The client's answer waits for it; an error is logged, for what was done cannot be undone.
	Record(ctx context.Context, d Deed) error
}

// DeedKind is what somebody did, under the name that AWS's logs have for it (transfer-api 8.2); they have none for a
// download, which is an OPEN and a CLOSE.
type DeedKind string

// The kinds.
const (
	Downloaded DeedKind = "DOWNLOAD"
	Deleted    DeedKind = "DELETE"
	Renamed    DeedKind = "RENAME"
	MadeDir    DeedKind = "MKDIR"
	RemovedDir DeedKind = "RMDIR"
)

// Deed is what a client did, or tried to do.
type Deed struct {
	// ID is the deed's, the same in its intent and its record; "" if there was no intent, because the deed could not begin.
	ID string
	Info
	Kind    DeedKind
	Session string
	Path    string // where it really lies, /bucket/key
	NewPath string // of a rename
	// From and To are the places behind the paths, and Identity is who acts there: what recovery needs.
	From, To storage.Location
	Identity storage.Identity
	Bytes    int64 // of a download; -1 if nobody knows, for its process died
	Began    time.Time
	Ended    time.Time
	// Cut says that a download was open when it ended.
	Cut bool
	// Failure says why it was not done, in words that a client may read; "" if it was.
	Failure string
}

// wants says whether there is a recorder that wants such a deed.
func (s *Session) wants(kind DeedKind) bool {
	r := s.m.cfg.Recorder
	return r != nil && r.Wants(kind)
}

// deed is what this session is about to do.
func (s *Session) deed(kind DeedKind, p string) Deed {
	d := Deed{Info: s.info, Session: s.id, Kind: kind, Path: s.BackendPath(p), Identity: s.fs.Identity(), Began: s.m.cfg.Now()}
	if at, err := s.fs.Locate(p); err == nil {
		d.ID, d.From = s.m.newUploadID(), at
	}
	return d
}

// perform does a deed between its intent and its record. What lies in no store cannot begin and needs no intent.
func (s *Session) perform(d Deed, do func() error) error {
	if !s.wants(d.Kind) {
		return do()
	}
	if d.ID != "" {
		if err := s.intend(d); err != nil {
			return err
		}
	}
	err := do()
	s.record(d, err)
	return err
}

// intend keeps what is about to be done. The caller may have gone, and then its deed fails by itself.
func (s *Session) intend(d Deed) error {
	ctx, cancel := s.m.finishing(s.ctx, s.m.cfg.JournalTimeout)
	defer cancel()
	if err := persist(ctx, func() error { return s.m.cfg.Recorder.Intend(ctx, d) }); err != nil {
		return fmt.Errorf("nobody could be told of this: %w: %w", storage.ErrUnavailable, err)
	}
	return nil
}

// record tells how a deed ended. err is why it was not done.
func (s *Session) record(d Deed, err error) {
	d.Ended = s.m.cfg.Now()
	if err != nil {
		d.Failure = message(err)
	}
	ctx, cancel := s.m.finishing(s.ctx, s.m.cfg.JournalTimeout)
	defer cancel()
	r := s.m.cfg.Recorder
	if err := persist(ctx, func() error { return r.Record(ctx, d) }); err != nil {
		s.log.Error("nobody is told of this yet", "operation", string(d.Kind), slog.String("path", d.Path), "error", err.Error())
		s.m.spawn(func() { s.recordLate(d) })
	}
}

// recordLate goes on telling until it works or the process ends. Then the intent is left, for the next start.
func (s *Session) recordLate(d Deed) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	defer cancel()
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		select {
		case <-s.m.draining:
			return
		case <-time.After(wait):
		}
		if s.m.cfg.Recorder.Record(ctx, d) == nil {
			return
		}
	}
}

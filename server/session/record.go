package session

import (
	"context"
	"log/slog"
	"time"
)

// Recorder is told what clients did, apart from uploads, of which the journal knows. It is durable once Record returns. The
// client's answer waits for it; an error is logged, for what was done cannot be undone.
type Recorder interface {
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
	Info
	Kind    DeedKind
	Session string
	Path    string // where it really lies, /bucket/key
	NewPath string // of a rename
	Bytes   int64  // of a download
	Began   time.Time
	Ended   time.Time
	// Cut says that a download was open when it ended.
	Cut bool
	// Failure says why it was not done, in words that a client may read; "" if it was.
	Failure string
}

// record tells the recorder, if there is one. err is why the deed was not done.
func (s *Session) record(d Deed, err error) {
	r := s.m.cfg.Recorder
	if r == nil {
		return
	}
	d.Info, d.Session, d.Ended = s.info, s.id, s.m.cfg.Now()
	if err != nil {
		d.Failure = message(err)
	}
	ctx, cancel := s.m.finishing(s.ctx, s.m.cfg.JournalTimeout)
	defer cancel()
	if err := persist(ctx, func() error { return r.Record(ctx, d) }); err != nil {
		s.log.Error("nobody will be told of this", "operation", string(d.Kind), slog.String("path", d.Path), "error", err.Error())
	}
}

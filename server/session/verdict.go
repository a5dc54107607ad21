package session

import (
	"context"
	"errors"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/storage"
)

// Outcome is the first word of a verdict.
type Outcome string

// The outcomes.
const (
	Complete Outcome = "complete" // the client closed the file and the storage committed it
	Partial  Outcome = "partial"  // the file was open when the session ended
	Refused  Outcome = "refused"  // the storage refused the bytes; the client was told; nothing is left
)

// Evidence is why: a short word for the log, the metric and the execution.
type Evidence string

// What ends an upload.
const (
	Closed     Evidence = "closed"
	Disconnect Evidence = "disconnect"
	Timeout    Evidence = "timeout"
	ServerStop Evidence = "server-stop"
	Crash      Evidence = "crash"
	Storage    Evidence = "storage"

	// What a protocol with a data connection of its own sees besides.
	Reset         Evidence = "reset"           // the data connection was reset, or the transfer failed otherwise
	ControlLost   Evidence = "control-lost"    // the control connection ended before the client took the final reply
	NoCloseNotify Evidence = "no-close-notify" // complete, but the data stream ended without TLS's own end
	Abort         Evidence = "abort"           // the client said so
	// Short is a file that its client closed before it reached the size that the client itself had declared, or with a
	// hole in it. Only Config.Integrity makes it partial.
	Short Evidence = "short"
	// TempName is a file that is whole, and whose client left it under a temporary name (Config.TempNames).
	TempName Evidence = "temp-name"
)

// Upload is one file that a client sends: a row of the journal.
type Upload struct {
	ID       string // a UUID, unique for ever; the execution that it causes has the same
	Node     string // the process that holds it
	Server   server.ID
	User     string
	Session  string
	Protocol string
	SourceIP string
	Location storage.Location
	Began    time.Time
	// Identity is on whose behalf the storage takes it, so that recovery goes on with no other rights.
	Identity storage.Identity `json:",omitzero"`
	// Modify says that it changes a file that stood, and Base how long that was.
	Modify bool  `json:",omitempty"`
	Base   int64 `json:",omitempty"`
	// Exclusive says that it must not replace a file, not by recovery either.
	Exclusive bool `json:",omitempty"`
	// Received is how many bytes had come when the journal was begun: zero only for a file that was closed empty. What
	// stood before is not among them.
	Received int64
	// Token is what the storage noted, "" if nothing. Filled in by the journal for recovery.
	Token string
	// Committed is what Journal.Committed marked, nil if nothing. Filled in by the journal for recovery.
	Committed *Commit `json:",omitempty"`
}

// Commit is an upload whose bytes the storage has committed, and whose verdict is still to come.
type Commit struct {
	Object   storage.Object
	Received int64 // bytes the client sent
	// Waits says that the file has a temporary name and is complete only when it is renamed.
	Waits bool `json:",omitempty"`
	// Renaming is where the file is about to lie, or lies already; nil if it was not renamed.
	Renaming *storage.Location `json:",omitempty"`
}

// Verdict is how an upload ended.
type Verdict struct {
	Outcome  Outcome
	Evidence Evidence
	Object   storage.Object // zero when refused
	Received int64          // bytes the client sent
	Ended    time.Time
	// Location is where the file lies if its client renamed it before the verdict; nil if it lies where it was sent.
	Location *storage.Location `json:",omitempty"`
}

// At is where the file of an upload lies.
func (v Verdict) At(u Upload) storage.Location {
	if v.Location != nil {
		return *v.Location
	}
	return u.Location
}

// ErrElsewhere is the answer of Committed and End about an upload that another process has taken over (Config.Adopt, or it
// has declared this one dead): its verdict is not this process's to write.
var ErrElsewhere = errors.New("the upload is another process's by now")

// Journal remembers uploads through any crash of the process when a method returns, and of the machine where something follows
// from what it was told (docs/decisions/0024).
type Journal interface {
	// Begin writes the upload's row, before its first byte goes to storage.
	Begin(ctx context.Context, u Upload) error
	// Note keeps what storage needs to find the upload again.
	Note(ctx context.Context, id, token string) error
	// Committed marks an upload whose client is about to be told that it arrived, and whose verdict waits for what the
	// client does then. If the process dies in between, the mark makes it complete, unless the file waits for a rename.
	// A later mark replaces it.
	Committed(ctx context.Context, id string, c Commit) error
	// End writes the verdict and, in the same transaction, queues the execution that the server's WorkflowDetails
	// attach to it: OnUpload for complete, OnPartialUpload for partial, none if Received is zero (AWS: files of size 0
	// start no workflow). Ending an ended upload again changes nothing and is no error.
	End(ctx context.Context, u Upload, v Verdict) error
}

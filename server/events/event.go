// Package events tells programs outside what became of files: uploads, downloads, renames and so on, in the shape that AWS
// Transfer Family sends to EventBridge. Events wait in an outbox, where they were put in the same transaction as what they
// tell of, and each sink is sent all of them: at least once, and those about one file in their order.
//
// It knows nothing of protocols, sessions, storage or workflows: whoever knows what happened makes an Operation of it. It
// knows nothing of SQL either: the Outbox is an interface.
package events

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// Kind is what somebody did, as AWS's detail-type says it (Amazon EventBridge, "Transfer Family events detail reference").
type Kind string

// The kinds.
const (
	Upload          Kind = "File Upload"
	Download        Kind = "File Download"
	Delete          Kind = "File Delete"
	Rename          Kind = "File Rename"
	DirectoryCreate Kind = "Directory Create"
	DirectoryDelete Kind = "Directory Delete"
)

// Failure is AWS's failure-code; "" is success.
type Failure string

// The failures.
const (
	PartialUpload   Failure = "PARTIAL_UPLOAD"
	PartialDownload Failure = "PARTIAL_DOWNLOAD"
	UnknownError    Failure = "UNKNOWN_ERROR"
)

// Operation is what somebody did to a file or a directory.
type Operation struct {
	// ID is the event's, the same whenever it is told. Empty: a new one is made.
	ID       string
	Kind     Kind
	Protocol string // SFTP, FTPS or FTP
	Server   string // id
	User     string
	Session  string
	ClientIP string
	Path     string // /bucket/key or /file-system/path
	NewPath  string // of a rename
	Bytes    int64  // of an upload or a download; -1 if nobody knows
	ETag     string // of an upload to S3
	Began    time.Time
	Ended    time.Time
	Failure  Failure
	Message  string // why, for whoever reads the event: nothing that a client must not know
}

// Origin is where the servers are.
type Origin struct{ Region, Account string }

// Event is an operation in the shape of EventBridge.
type Event struct {
	Version    string    `json:"version"`
	ID         string    `json:"id"` // the same whenever it is sent: who has seen it needs not look at it again
	DetailType string    `json:"detail-type"`
	Source     string    `json:"source"`
	Account    string    `json:"account"`
	Time       time.Time `json:"time"`
	Region     string    `json:"region"`
	Resources  []string  `json:"resources"` // the server's ARN
	Detail     Detail    `json:"detail"`

	// Number is the event's place in the outbox, which gives it.
	Number int64 `json:"-"`
}

// Detail is what EventBridge calls so.
type Detail struct {
	StatusCode     string    `json:"status-code"` // COMPLETED or FAILED
	FailureCode    Failure   `json:"failure-code,omitempty"`
	FailureMessage string    `json:"failure-message,omitempty"`
	Protocol       string    `json:"protocol"`
	Bytes          *int64    `json:"bytes,omitempty"`
	ClientIP       string    `json:"client-ip"`
	StartTimestamp time.Time `json:"start-timestamp"`
	EndTimestamp   time.Time `json:"end-timestamp"`
	ETag           string    `json:"etag,omitempty"`
	FilePath       string    `json:"file-path,omitempty"`
	OriginalPath   string    `json:"original-file-path,omitempty"`
	RenamedPath    string    `json:"renamed-file-path,omitempty"`
	DirectoryPath  string    `json:"directory-path,omitempty"`
	ServerID       string    `json:"server-id"`
	Username       string    `json:"username"`
	SessionID      string    `json:"session-id"`
}

// awsSource is who sends, as AWS's own events say it.
const awsSource = "aws.transfer"

// Event makes the event that tells of an operation.
func (o Origin) Event(op Operation) Event {
	if op.ID == "" {
		op.ID = newID()
	}
	d := Detail{
		StatusCode: "COMPLETED", FailureCode: op.Failure, FailureMessage: op.Message, Protocol: op.Protocol,
		ClientIP: op.ClientIP, StartTimestamp: op.Began.UTC(), EndTimestamp: op.Ended.UTC(), ETag: op.ETag,
		ServerID: op.Server, Username: op.User, SessionID: op.Session,
	}
	word := "Completed"
	if op.Failure != "" {
		d.StatusCode, word = "FAILED", "Failed"
	}
	switch op.Kind {
	case Upload, Download:
		if d.FilePath = op.Path; op.Bytes >= 0 {
			d.Bytes = &op.Bytes
		}
	case Rename:
		d.OriginalPath, d.RenamedPath = op.Path, op.NewPath
	case DirectoryCreate, DirectoryDelete:
		d.DirectoryPath = op.Path
	default:
		d.FilePath = op.Path
	}
	return Event{
		Version: "0", ID: op.ID, DetailType: op.Protocol + " Server " + string(op.Kind) + " " + word, Source: awsSource,
		Account: o.Account, Time: op.Ended.UTC().Truncate(time.Second), Region: o.Region,
		Resources: []string{"arn:aws:transfer:" + o.Region + ":" + o.Account + ":server/" + op.Server}, Detail: d,
	}
}

// Kind is what the event tells of.
func (e Event) Kind() Kind {
	_, what, _ := strings.Cut(e.DetailType, " Server ")
	return Kind(what[:max(0, strings.LastIndexByte(what, ' '))])
}

// keys are the places that an event is about: those about one place are sent in their order.
func (e Event) keys() []string {
	var keys []string
	for _, k := range []string{e.Detail.FilePath, e.Detail.OriginalPath, e.Detail.RenamedPath, e.Detail.DirectoryPath} {
		if k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// key is the one of them that receivers get: a renamed file is the one that has the new name.
func (e Event) key() string {
	keys := e.keys()
	if len(keys) == 0 {
		return e.ID
	}
	return keys[len(keys)-1]
}

// newID makes a UUID (RFC 9562, version 4), as EventBridge's ids are.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

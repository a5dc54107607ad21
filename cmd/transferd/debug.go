package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/db"
)

// sessionView and uploadView are what `transferd sessions` and `transferd uploads` show.
type (
	sessionView struct {
		SessionId string
		ServerId  server.ID
		UserName  string
		Protocol  string
		SourceIp  string
		Client    string
		Began     time.Time
		OpenFiles int
	}
	// nodeView is a node as /debug/nodes tells it.
	nodeView struct {
		Node      string
		State     string  // alive, missing or left
		Unseen    float64 // seconds since its last sign of life
		Listeners []db.Listener
	}
	uploadView struct {
		UploadId  string // an execution that the upload causes has the same id
		ServerId  server.ID
		UserName  string
		SessionId string
		Protocol  string
		SourceIp  string
		File      string // /bucket/key
		Began     time.Time
		Ended     *time.Time `json:",omitempty"`
		Outcome   string     `json:",omitempty"` // complete, partial or refused; none while the upload is under way
		Evidence  string     `json:",omitempty"`
		Received  int64
	}
)

// uploadsShown is how many of the latest uploads are shown, besides all that are under way.
const uploadsShown = 200

func (d *daemon) debugSessions(w http.ResponseWriter, _ *http.Request) {
	views := []sessionView{}
	for _, s := range d.sessions.Sessions() {
		views = append(views, sessionView{
			SessionId: s.ID, ServerId: s.Server, UserName: s.User, Protocol: s.Protocol, SourceIp: s.SourceIP, Client: s.Client,
			Began: s.Began, OpenFiles: s.OpenFiles,
		})
	}
	d.answerJSON(w, views)
}

// debugNodes tells where each node of the cluster listens.
func (d *daemon) debugNodes(w http.ResponseWriter, r *http.Request) {
	nodes, err := d.db.Nodes(r.Context())
	if err != nil {
		d.refuseDebug(w, "list nodes", err)
		return
	}
	views := []nodeView{}
	for _, n := range nodes {
		views = append(views, nodeView{n.Name, string(n.State), n.Unseen.Seconds(), n.Listeners})
	}
	d.answerJSON(w, views)
}

func (d *daemon) debugUploads(w http.ResponseWriter, r *http.Request) {
	records, err := d.db.RecentUploads(r.Context(), uploadsShown)
	if err != nil {
		d.log.Error("list uploads", "error", err.Error())
		http.Error(w, "the journal cannot be read", http.StatusInternalServerError)
		return
	}
	views := []uploadView{}
	for _, rec := range records {
		views = append(views, viewOf(rec))
	}
	d.answerJSON(w, views)
}

func viewOf(rec db.UploadRecord) uploadView {
	u := rec.Upload
	v := uploadView{
		UploadId: u.ID, ServerId: u.Server, UserName: u.User, SessionId: u.Session, Protocol: u.Protocol, SourceIp: u.SourceIP,
		File: u.Location.Path(), Began: u.Began, Received: u.Received,
	}
	if rec.Verdict != nil {
		v.File = rec.Verdict.At(u).Path() // its client may have renamed it before the verdict
		v.Ended, v.Outcome, v.Evidence, v.Received = &rec.Verdict.Ended, string(rec.Verdict.Outcome), string(rec.Verdict.Evidence), rec.Verdict.Received
	}
	return v
}

func (d *daemon) answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		d.log.Debug("a caller of /debug went away", "error", err.Error())
	}
}

// localOnly answers callers on this machine, and no others. The name that the caller used counts too: a web page that
// has its own name point at 127.0.0.1 makes a browser ask for it (DNS rebinding).
func localOnly(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().IsLoopback() || !localName(r.Host) {
			http.Error(w, "only for callers on the loopback interface", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

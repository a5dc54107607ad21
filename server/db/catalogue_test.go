package db

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/workflow"
)

func TestServers(t *testing.T) { both(t, testServers) }

func testServers(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	s := server.Server{ServerId: "s-1", Arn: "arn", State: server.Offline, Protocols: []string{"SFTP"}, UserCount: 7,
		Tags: []server.Tag{{Key: "k", Value: "v"}}}
	late := aKey("hostkey-0")
	late.DateImported = late.DateImported.AddDate(1, 0, 0)
	must(t, d.CreateServer(ctx, s, []hostkeys.Key{late, aKey("hostkey-1")}))
	wantExists(t, d.CreateServer(ctx, s, nil), "Server", "s-1")
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-2"}, nil))
	must(t, d.CreateUser(ctx, "s-1", server.User{UserName: "ann"}))

	s.UserCount, s.HostKeyFingerprint = 1, "SHA256:x"
	if got := value[server.Server](t)(d.Server(ctx, "s-1")); !reflect.DeepEqual(got, s) {
		t.Errorf("read back %+v, want %+v", got, s)
	}
	all := value[[]server.Server](t)(d.Servers(ctx, server.Page{}))
	if len(all) != 2 || all[0].UserCount != 1 || all[1].ServerId != "s-2" {
		t.Errorf("list: %+v", all)
	}
	if rest := value[[]server.Server](t)(d.Servers(ctx, server.Page{After: "s-1", Limit: 5})); len(rest) != 1 {
		t.Errorf("page: %+v", rest)
	}
	keys := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1"))
	if want := []hostkeys.Key{aKey("hostkey-1"), late}; !reflect.DeepEqual(keys, want) {
		t.Errorf("host keys %+v, want oldest first %+v", keys, want)
	}

	must(t, d.UpdateServer(ctx, "s-1", func(s *server.Server) error { s.State = server.Starting; return nil }))
	mine := errors.New("mine")
	err := d.UpdateServer(ctx, "s-1", func(s *server.Server) error { s.State = server.Online; return mine })
	if err != mine {
		t.Errorf("error of change came back as %v", err)
	}
	if got := value[server.Server](t)(d.Server(ctx, "s-1")); got.State != server.Starting {
		t.Errorf("state %s after an aborted change", got.State)
	}

	must(t, d.DeleteServer(ctx, "s-1"))
	_, err = d.Server(ctx, "s-1")
	wantNotFound(t, err, "Server", "s-1")
	_, err = d.HostKeys(ctx, "s-1")
	wantNotFound(t, err, "Server", "s-1")
	wantNotFound(t, d.DeleteServer(ctx, "s-1"), "Server", "s-1")
	wantNotFound(t, d.UpdateServer(ctx, "s-1", func(*server.Server) error { return nil }), "Server", "s-1")
	must(t, d.CreateServer(ctx, s, nil)) // nothing of the first one is left
	if users := value[[]server.User](t)(d.Users(ctx, "s-1", server.Page{})); len(users) != 0 {
		t.Errorf("users of the deleted server: %v", users)
	}
}

func TestCreateServerIsWhole(t *testing.T) { both(t, testCreateServerIsWhole) }

func testCreateServerIsWhole(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	err := d.CreateServer(ctx, server.Server{ServerId: "s-1"}, []hostkeys.Key{aKey("hostkey-1"), aKey("hostkey-1")})
	wantExists(t, err, "HostKey", "hostkey-1")
	_, err = d.Server(ctx, "s-1")
	wantNotFound(t, err, "Server", "s-1")
}

func TestUsers(t *testing.T) { both(t, testUsers) }

func testUsers(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	ann := server.User{UserName: "ann", Role: "r", SshPublicKeys: []server.SshPublicKey{{SshPublicKeyId: "key-1"}}}
	must(t, d.CreateUser(ctx, "s-1", ann))
	must(t, d.CreateUser(ctx, "s-1", server.User{UserName: "bob"}))
	wantExists(t, d.CreateUser(ctx, "s-1", ann), "User", "ann")
	wantNotFound(t, d.CreateUser(ctx, "s-2", ann), "Server", "s-2")

	if got := value[server.User](t)(d.User(ctx, "s-1", "ann")); got.SshPublicKeys[0].SshPublicKeyId != "key-1" {
		t.Errorf("read back %+v", got)
	}
	_, err := d.User(ctx, "s-1", "eve")
	wantNotFound(t, err, "User", "eve")
	_, err = d.User(ctx, "s-2", "ann")
	wantNotFound(t, err, "Server", "s-2")
	_, err = d.Users(ctx, "s-2", server.Page{})
	wantNotFound(t, err, "Server", "s-2")
	if l := value[[]server.User](t)(d.Users(ctx, "s-1", server.Page{Limit: 1})); len(l) != 1 || l[0].UserName != "ann" {
		t.Errorf("first page %+v", l)
	}
	if l := value[[]server.User](t)(d.Users(ctx, "s-1", server.Page{After: "ann"})); len(l) != 1 || l[0].UserName != "bob" {
		t.Errorf("second page %+v", l)
	}

	must(t, d.UpdateUser(ctx, "s-1", "ann", func(u *server.User) error { u.Role = "new"; return nil }))
	if got := value[server.User](t)(d.User(ctx, "s-1", "ann")); got.Role != "new" {
		t.Errorf("role %q after the change", got.Role)
	}
	wantNotFound(t, d.UpdateUser(ctx, "s-1", "eve", func(*server.User) error { return nil }), "User", "eve")
	must(t, d.DeleteUser(ctx, "s-1", "ann"))
	wantNotFound(t, d.DeleteUser(ctx, "s-1", "ann"), "User", "ann")
	wantNotFound(t, d.DeleteUser(ctx, "s-2", "ann"), "Server", "s-2")
}

func TestWorkflows(t *testing.T) { both(t, testWorkflows) }

func testWorkflows(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	w := aWorkflow("w-1", 2)
	must(t, d.CreateWorkflow(ctx, w))
	must(t, d.CreateWorkflow(ctx, aWorkflow("w-2", 1)))
	wantExists(t, d.CreateWorkflow(ctx, w), "Workflow", "w-1")
	if got := value[workflow.Workflow](t)(d.Workflow(ctx, "w-1")); !reflect.DeepEqual(got, w) {
		t.Errorf("read back %+v, want %+v", got, w)
	}
	if l := value[[]workflow.Workflow](t)(d.Workflows(ctx, server.Page{After: "w-1", Limit: 9})); len(l) != 1 {
		t.Errorf("page %+v", l)
	}
	must(t, d.UpdateWorkflow(ctx, "w-1", func(w *workflow.Workflow) error { w.Description = "new"; return nil }))
	if got := value[workflow.Workflow](t)(d.Workflow(ctx, "w-1")); got.Description != "new" {
		t.Errorf("description %q", got.Description)
	}

	refer := func(id string) func(*server.Server) error {
		return func(s *server.Server) error {
			s.WorkflowDetails = &server.WorkflowDetails{OnUpload: []server.WorkflowDetail{{WorkflowId: id}}}
			return nil
		}
	}
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	wantNotFound(t, d.UpdateServer(ctx, "s-1", refer("w-9")), "Workflow", "w-9")
	if s := value[server.Server](t)(d.Server(ctx, "s-1")); s.WorkflowDetails != nil {
		t.Error("a refused attachment was kept")
	}
	must(t, d.UpdateServer(ctx, "s-1", refer("w-1")))
	var use *server.InUseError
	if err := d.DeleteWorkflow(ctx, "w-1"); !errors.As(err, &use) || use.By != "s-1" {
		t.Errorf("deleted although in use: %v", err)
	}
	must(t, d.UpdateServer(ctx, "s-1", func(s *server.Server) error { s.WorkflowDetails = nil; return nil }))
	must(t, d.DeleteWorkflow(ctx, "w-1"))
	wantNotFound(t, d.DeleteWorkflow(ctx, "w-1"), "Workflow", "w-1")
	_, err := d.Workflow(ctx, "w-1")
	wantNotFound(t, err, "Workflow", "w-1")
	wantNotFound(t, d.UpdateWorkflow(ctx, "w-1", func(*workflow.Workflow) error { return nil }), "Workflow", "w-1")
}

func TestPanicInChangeFreesTheConnection(t *testing.T) { both(t, testPanicInChangeFreesTheConnection) }

func testPanicInChangeFreesTheConnection(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		t.Error(d.UpdateServer(ctx, "s-1", func(*server.Server) error { panic("x") }))
	}()
	must(t, d.UpdateServer(ctx, "s-1", func(*server.Server) error { return nil }))
}

func TestChanged(t *testing.T) { both(t, testChanged) }

func testChanged(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	c, cancel := d.Changed()
	heard := func() bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	must(t, d.CreateUser(ctx, "s-1", server.User{UserName: "ann"}))
	if !heard() || heard() {
		t.Error("two changes must be one signal")
	}
	wantExists(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil), "Server", "s-1")
	must(t, d.CreateWorkflow(ctx, aWorkflow("w-1", 1)))
	if heard() {
		t.Error("signal without a change of servers or users")
	}
	must(t, d.UpdateUser(ctx, "s-1", "ann", func(*server.User) error { return nil }))
	if !heard() {
		t.Error("no signal for a changed user")
	}
	cancel()
	must(t, d.DeleteServer(ctx, "s-1"))
	if heard() {
		t.Error("signal after the end of the subscription")
	}
}

func TestRestartKeepsEverything(t *testing.T) { both(t, testRestartKeepsEverything) }

func testRestartKeepsEverything(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "a # strange?%20name", "data"), t.Context()
	d := open(t, Config{Dir: dir})
	id := attached(t, d, 2)
	e := send(t, d, id, whole())
	open1 := anUpload(d, id)
	must(t, d.Begin(ctx, open1))
	must(t, d.Close())

	again := open(t, Config{Dir: dir})
	if again.Node() != d.Node() || !strings.HasPrefix(d.Node(), "node-") {
		t.Errorf("node was %q and is %q", d.Node(), again.Node())
	}
	if s := value[server.Server](t)(again.Server(ctx, id)); s.WorkflowDetails.OnUpload[0].WorkflowId != "w-whole" {
		t.Errorf("server %+v", s)
	}
	if got := value[workflow.Execution](t)(again.Execution(ctx, e)); got.Status != workflow.InProgress {
		t.Errorf("execution %+v", got)
	}
	if left := value[[]session.Upload](t)(again.Unfinished(ctx, d.Node())); len(left) != 1 || left[0].ID != open1.ID {
		t.Errorf("unfinished %+v", left)
	}
	files := map[string]os.FileMode{
		dir: 0o700, filepath.Join(dir, "transferd.db"): 0o600, filepath.Join(dir, "transferd.db-wal"): 0o600,
		filepath.Join(dir, "transferd.db-shm"): 0o600, filepath.Join(dir, "lock"): 0o600,
	}
	if d.Clustered() {
		files = map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "lock"): 0o600, filepath.Join(dir, "node"): 0o600}
	}
	for path, want := range files {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
}

func TestOneProcessADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, Config{Dir: dir})
	d, err := Open(context.Background(), Config{Dir: dir})
	if err == nil {
		t.Fatal("opened twice", d.Close())
	}
	if !strings.Contains(err.Error(), "in use by another transferd process") {
		t.Errorf("unclear error: %v", err)
	}
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("opened without a directory")
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "transferd.db"), []byte(strings.Repeat("not a database ", 100)), 0o600))
	if _, err := Open(t.Context(), Config{Dir: dir}); err == nil {
		t.Error("opened garbage")
	}
	must(t, os.Remove(filepath.Join(dir, "transferd.db")))
	open(t, Config{Dir: dir, Node: "me"}) // the lock was given back
}

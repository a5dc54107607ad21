package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/db/pgtest"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// long bounds waits for what a busy machine brings about late.
const long = time.Minute

// nodes opens so many nodes of one cluster. Their beat is short enough for a test and long enough for a busy machine.
func nodes(t *testing.T, n int) []*DB {
	t.Helper()
	url := servers.database(t, t.TempDir())
	all := make([]*DB, n)
	for i := range all {
		all[i] = open(t, Config{URL: url, Dir: t.TempDir(), Node: fmt.Sprint("node-", i), Beat: 500 * time.Millisecond,
			Drain: 200 * time.Millisecond})
	}
	return all
}

// fall ends a node as if its process had been killed: nothing is said to anybody.
func fall(t *testing.T, d *DB) {
	t.Helper()
	d.member.end()
	<-d.member.gone
}

// inherited waits until a node has something of a dead one.
func inherited(t *testing.T, d *DB) (got Inheritance) {
	t.Helper()
	eventually(t, "a dead node is found", long, func() bool {
		all := value[[]Inheritance](t)(d.Inherit(t.Context()))
		if len(all) > 0 {
			got = all[0]
		}
		return len(all) > 0
	})
	return got
}

// A dead node's open uploads and running jobs go to one living node, exactly once, and the dead one writes no more.
func TestDeadNodeIsInherited(t *testing.T) {
	t.Parallel()
	all := nodes(t, 3)
	dying, ctx := all[0], t.Context()
	id := attached(t, dying, 2)
	open1, done := anUpload(dying, id), anUpload(dying, id)
	must(t, errors.Join(dying.Begin(ctx, open1), dying.Note(ctx, open1.ID, "token"), dying.Begin(ctx, done)))
	other := anUpload(all[1], id)
	other.Location.Name = "in/other"
	must(t, all[1].Begin(ctx, other))
	running := make(chan workflow.Job, 8)
	stop := work(t, dying, func(ctx context.Context, j workflow.Job, _ workflow.Advance) error {
		running <- j
		<-ctx.Done()
		return ctx.Err()
	}, 1)
	must(t, dying.End(ctx, done, whole()))
	<-running
	if value[bool](t)(all[1].Abandoned(ctx, open1.Location)) {
		t.Error("the upload of a living node counts as abandoned")
	}
	fall(t, dying)
	eventually(t, "abandoned", long, func() bool { return value[bool](t)(all[1].Abandoned(ctx, open1.Location)) })

	var mu sync.Mutex
	var got []Inheritance
	var heir *DB
	var heirs sync.WaitGroup
	for _, d := range all[1:] {
		heirs.Go(func() {
			eventually(t, "the dead node is gone", long, func() bool {
				in, err := d.Inherit(ctx)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, in...)
				if len(in) > 0 {
					heir = d
				}
				return len(got) > 0
			})
		})
	}
	heirs.Wait()
	if len(got) != 1 || got[0].Node != "node-0" || got[0].Jobs != 1 || len(got[0].Uploads) != 1 || got[0].Uploads[0].ID != open1.ID ||
		got[0].Uploads[0].Token != "token" {
		t.Fatalf("inherited %+v", got)
	}
	if !value[bool](t)(all[2].Abandoned(ctx, open1.Location)) {
		t.Error("an inherited upload is not abandoned")
	}
	for what, err := range map[string]error{
		"begin": dying.Begin(ctx, anUpload(dying, id)), "end": dying.End(ctx, open1, whole()),
		"change": dying.UpdateServer(ctx, id, func(*server.Server) error { return nil }),
	} {
		if !errors.Is(err, errDead) {
			t.Errorf("the dead node's %s: %v", what, err)
		}
	}
	stop()
	cut := whole()
	cut.Outcome, cut.Evidence = session.Partial, session.Crash
	must(t, heir.End(ctx, got[0].Uploads[0], cut))
	if value[bool](t)(all[2].Abandoned(ctx, open1.Location)) {
		t.Error("still abandoned")
	}
	work(t, all[2], succeed(all[2]), 2)
	for _, e := range []string{done.ID, open1.ID} {
		eventually(t, "completed", long, hasStatus(t, all[1], workflow.ExecutionID(e), workflow.Completed))
	}
	if r := value[workflow.Execution](t)(all[1].Execution(ctx, workflow.ExecutionID(done.ID))).Results; r.Steps[0].Attempt != 2 {
		t.Errorf("the repeated step is not marked: %+v", r)
	}
}

// A node that hangs with its session alive is dead after a longer while, and learns of it when it wakes.
func TestSilentNodeIsDead(t *testing.T) {
	t.Parallel()
	all := nodes(t, 2)
	must(t, all[1].tx(t.Context(), "test", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `UPDATE nodes SET seen = seen - $1 WHERE name = 'node-0'`, all[0].member.millis(suspectAfter+1))
		return err
	}))
	if in := value[[]Inheritance](t)(all[1].Inherit(t.Context())); len(in) != 0 {
		t.Errorf("inherited %+v from a node that has its session", in)
	}
	must(t, all[1].tx(t.Context(), "test", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM nodes WHERE name = 'node-0'`)
		return err
	}))
	select {
	case <-all[0].Dead():
	case <-time.After(long):
		t.Fatal("did not learn that it is dead")
	}
	if err := all[0].Ping(t.Context()); !errors.Is(err, errDead) {
		t.Errorf("ready: %v", err)
	}
	if err := all[1].Ping(t.Context()); err != nil {
		t.Errorf("the living one: %v", err)
	}
}

// A node that ends says so: others inherit at once whatever it left, and the same name can come back.
func TestNodeThatEnds(t *testing.T) {
	t.Parallel()
	all := nodes(t, 1)
	url, dir := all[0].shared.pool.Config().ConnString(), t.TempDir()
	d, err := Open(t.Context(), Config{URL: url, Dir: dir})
	must(t, err)
	id := attached(t, d, 1)
	must(t, d.Begin(t.Context(), anUpload(d, id)))
	name := d.Node()
	must(t, d.Close())
	if in := inherited(t, all[0]); in.Node != name || len(in.Uploads) != 1 {
		t.Errorf("inherited %+v", in)
	}
	again := open(t, Config{URL: url, Dir: dir})
	if again.Node() != name {
		t.Errorf("node was %s and is %s", name, again.Node())
	}
	if left := value[[]session.Upload](t)(again.Unfinished(t.Context(), name)); len(left) != 0 {
		t.Errorf("the upload is %+v's again", left)
	}
}

func TestOneProcessAName(t *testing.T) {
	t.Parallel()
	all := nodes(t, 1)
	d, err := Open(t.Context(), Config{URL: all[0].shared.pool.Config().ConnString(), Node: all[0].Node()})
	if err == nil {
		t.Fatal("two processes are one node", d.Close())
	}
	if !strings.Contains(err.Error(), "node node-0 is in use by another transferd process") {
		t.Errorf("unclear error: %v", err)
	}
}

// A change on one node is heard on the others, and its author hears it once.
func TestChangesReachOtherNodes(t *testing.T) {
	t.Parallel()
	all := nodes(t, 2)
	changed, end := all[1].Changed()
	defer end()
	began := time.Now()
	attached(t, all[0], 1)
	select {
	case <-changed:
		t.Logf("heard after %s", time.Since(began))
	case <-time.After(long):
		t.Fatal("not heard")
	}
	if s := value[server.Server](t)(all[1].Server(t.Context(), "s-1")); s.ServerId != "s-1" {
		t.Errorf("%+v", s)
	}
}

// Rules between rows hold when nodes write at once: quotas, the last host key, and no change is lost.
func TestNodesWriteAtOnce(t *testing.T) {
	t.Parallel()
	all, ctx := nodes(t, 3), t.Context()
	for _, d := range all {
		d.limits.Servers, d.limits.UsersPerServer = 1, 5
	}
	var keys []hostkeys.Key
	for i := range writers {
		keys = append(keys, keyOf(fmt.Sprint(i), "ssh-rsa", i))
	}
	var created, users, deleted, refused sync.Map
	each(12, 12, func(i int) {
		if all[i%3].CreateServer(ctx, server.Server{ServerId: server.ID(fmt.Sprint("s-", i))}, keys) == nil {
			created.Store(server.ID(fmt.Sprint("s-", i)), true)
		}
	})
	ids := mapKeys[server.ID](&created)
	if len(ids) != 1 {
		t.Fatalf("%d servers, one is allowed", len(ids))
	}
	each(writers, writers, func(i int) {
		d := all[i%3]
		if d.CreateUser(ctx, ids[0], server.User{UserName: fmt.Sprint("user-", i)}) == nil {
			users.Store(i, true)
		}
		var last *server.LastKeyError
		if err := d.DeleteHostKey(ctx, ids[0], keys[i].HostKeyId); errors.As(err, &last) {
			refused.Store(i, true)
		} else if err == nil {
			deleted.Store(i, true)
		} else {
			t.Error(err)
		}
		if err := d.UpdateServer(ctx, ids[0], func(s *server.Server) error {
			s.Tags = append(s.Tags, server.Tag{Key: fmt.Sprint(i)})
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
	s := value[server.Server](t)(all[0].Server(ctx, ids[0]))
	if n := len(mapKeys[int](&users)); n != 5 || s.UserCount != 5 || len(s.Tags) != writers {
		t.Errorf("%d users made, %d counted, %d tags", n, s.UserCount, len(s.Tags))
	}
	if d, r := len(mapKeys[int](&deleted)), len(mapKeys[int](&refused)); d != writers-1 || r != 1 {
		t.Errorf("%d keys deleted, %d refused", d, r)
	}
}

func mapKeys[K any](m *sync.Map) (keys []K) {
	m.Range(func(k, _ any) bool {
		keys = append(keys, k.(K))
		return true
	})
	return keys
}

// Several processes that start at once on an empty database leave it as one would.
func TestMigratedAtOnce(t *testing.T) {
	t.Parallel()
	url := servers.empty(t)
	each(4, 4, func(i int) {
		d, err := Open(t.Context(), Config{URL: url, Node: fmt.Sprint("n", i)})
		if err != nil {
			t.Error(err)
			return
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	d := open(t, Config{URL: url})
	for _, name := range []string{"b", "A", "a", "B"} {
		must(t, d.CreateWorkflow(t.Context(), aWorkflow(workflow.ID(name), 1)))
	}
	var order string
	for _, w := range value[[]workflow.Workflow](t)(d.Workflows(t.Context(), server.Page{})) {
		order += string(w.WorkflowId)
	}
	if order != "ABab" {
		t.Errorf("sorted as %s: by a language, not by bytes", order)
	}
}

// The server is killed while calls are made: each is answered, what was acknowledged is there, and afterwards all goes on.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	cluster, err := pgtest.Start(t.Context(), "fsync=on")
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Stop()) })
	d := open(t, Config{URL: cluster.URL("postgres"), Dir: t.TempDir(), Beat: 200 * time.Millisecond})
	ctx := t.Context()
	id := attached(t, d, 2)
	work(t, d, succeed(d), 4)
	var acked, failed sync.Map
	each(200, 8, func(i int) {
		if i == 50 {
			must(t, cluster.Kill())
			if err := d.Ping(ctx); !errors.Is(err, errLost) {
				t.Errorf("without its server: %v", err)
			}
			must(t, cluster.Run(ctx))
		}
		u := anUpload(d, id)
		if err := errors.Join(d.Begin(ctx, u), d.End(ctx, u, whole())); err != nil {
			failed.Store(err.Error(), true)
		} else {
			acked.Store(u.ID, true)
		}
	})
	eventually(t, "the database is back", long, func() bool { return d.Ping(ctx) == nil })
	send(t, d, id, whole())
	n := mapKeys[string](&acked)
	for _, u := range n {
		eventually(t, "completed", long, hasStatus(t, d, workflow.ExecutionID(u), workflow.Completed))
	}
	t.Logf("%d acknowledged, all completed; errors: %q", len(n), mapKeys[string](&failed))
	select {
	case <-d.Dead():
		t.Error("called dead although it was the server")
	default:
	}
}

// TestNodes: a node tells where it listens, and what is known of it; without a cluster it tells of itself.
func TestNodes(t *testing.T) {
	both(t, func(t *testing.T) {
		d := open(t, Config{})
		nodes := value[[]Node](t)(d.Nodes(t.Context()))
		if len(nodes) != 1 || nodes[0].Name != d.Node() || nodes[0].State != NodeAlive || nodes[0].Listeners != nil {
			t.Errorf("nodes %+v", nodes)
		}
		at := []Listener{{Server: "s-1", Door: "SFTP", Address: "192.0.2.1:22"}, {Server: "s-2", Door: "FTP", Address: "192.0.2.1:21"}}
		must(t, d.Listens(t.Context(), at))
		if nodes := value[[]Node](t)(d.Nodes(t.Context())); len(nodes) != 1 || !slices.Equal(nodes[0].Listeners, at) {
			t.Errorf("nodes %+v", nodes)
		}
	})
}

// TestAdopt: an upload that waits for its rename goes to the node that its client came back to, and then only that one writes
// its verdict; not one that has been judged, is being renamed, or waits for nothing.
func TestAdopt(t *testing.T) {
	t.Parallel()
	all := nodes(t, 2)
	first, second, ctx := all[0], all[1], t.Context()
	object := storage.Object{Size: 3, ETag: `"e"`, ModTime: time.Now()}
	wait := func(c session.Commit) session.Upload {
		u := anUpload(first, "s-1")
		u.Location.Name += u.ID
		must(t, first.Begin(ctx, u))
		must(t, first.Committed(ctx, u.ID, c))
		return u
	}
	u := wait(session.Commit{Object: object, Received: 3, Waits: true})
	for what, other := range map[string]session.Upload{
		"waits for nothing": wait(session.Commit{Object: object}),
		"is being renamed":  wait(session.Commit{Object: object, Waits: true, Renaming: &u.Location}),
	} {
		if _, found, err := second.Adopt(ctx, other.Location); err != nil || found {
			t.Errorf("adopted one that %s: %v", what, err)
		}
	}
	if _, found, err := first.Adopt(ctx, u.Location); err != nil || found {
		t.Errorf("a node adopted its own: %v", err)
	}
	got, found, err := second.Adopt(ctx, u.Location)
	if err != nil || !found || got.ID != u.ID || got.Node != second.Node() || got.Committed == nil || got.Committed.Received != 3 {
		t.Fatalf("adopted %+v, %v, %v", got, found, err)
	}
	for what, err := range map[string]error{"mark": first.Committed(ctx, u.ID, session.Commit{}), "end": first.End(ctx, u, whole())} {
		if !errors.Is(err, session.ErrElsewhere) {
			t.Errorf("%s by the node of before: %v", what, err)
		}
	}
	if value[bool](t)(first.Abandoned(ctx, u.Location)) {
		t.Error("it seems to be a dead node's")
	}
	must(t, second.Committed(ctx, u.ID, session.Commit{Object: object, Received: 3, Renaming: &u.Location}))
	must(t, errors.Join(second.End(ctx, got, whole()), first.End(ctx, u, whole())))
	if _, found, err := first.Adopt(ctx, u.Location); err != nil || found {
		t.Errorf("adopted one that has ended: %v", err)
	}
}

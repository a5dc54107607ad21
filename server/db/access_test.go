package db

import (
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

func TestAccesses(t *testing.T) { both(t, testAccesses) }

func testAccesses(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-2"}, nil))
	a := server.Access{ExternalId: "S-1-1", Role: "r", HomeDirectory: "/b/${Transfer:UserName}",
		PosixProfile: &server.PosixProfile{Uid: 1, SecondaryGids: []int64{2}}}
	must(t, d.CreateAccess(ctx, "s-1", a))
	must(t, d.CreateAccess(ctx, "s-1", server.Access{ExternalId: "S-1-2"}))
	must(t, d.CreateAccess(ctx, "s-2", server.Access{ExternalId: "S-1-1"}))
	wantExists(t, d.CreateAccess(ctx, "s-1", a), "Access", "S-1-1")
	wantNotFound(t, d.CreateAccess(ctx, "s-9", a), "Server", "s-9")

	if got := value[server.Access](t)(d.Access(ctx, "s-1", "S-1-1")); !reflect.DeepEqual(got, a) {
		t.Errorf("read back %+v, want %+v", got, a)
	}
	_, err := d.Access(ctx, "s-1", "S-1-9")
	wantNotFound(t, err, "Access", "S-1-9")
	_, err = d.Access(ctx, "s-9", "S-1-1")
	wantNotFound(t, err, "Server", "s-9")
	_, err = d.Accesses(ctx, "s-9", server.Page{})
	wantNotFound(t, err, "Server", "s-9")
	if l := value[[]server.Access](t)(d.Accesses(ctx, "s-1", server.Page{Limit: 1})); len(l) != 1 || l[0].ExternalId != "S-1-1" {
		t.Errorf("first page %+v", l)
	}
	if l := value[[]server.Access](t)(d.Accesses(ctx, "s-1", server.Page{After: "S-1-1"})); len(l) != 1 || l[0].ExternalId != "S-1-2" {
		t.Errorf("second page %+v", l)
	}

	must(t, d.UpdateAccess(ctx, "s-1", "S-1-1", func(a *server.Access) error { a.Role, a.ExternalId = "new", "x"; return nil }))
	a.Role = "new"
	if got := value[server.Access](t)(d.Access(ctx, "s-1", "S-1-1")); !reflect.DeepEqual(got, a) {
		t.Errorf("after the change %+v, want %+v", got, a)
	}
	mine := errors.New("mine")
	if err := d.UpdateAccess(ctx, "s-1", "S-1-1", func(*server.Access) error { return mine }); err != mine {
		t.Errorf("error of change came back as %v", err)
	}
	keep := func(*server.Access) error { return nil }
	wantNotFound(t, d.UpdateAccess(ctx, "s-1", "S-1-9", keep), "Access", "S-1-9")
	wantNotFound(t, d.UpdateAccess(ctx, "s-9", "S-1-1", keep), "Server", "s-9")
	must(t, d.DeleteAccess(ctx, "s-1", "S-1-1"))
	wantNotFound(t, d.DeleteAccess(ctx, "s-1", "S-1-1"), "Access", "S-1-1")
	wantNotFound(t, d.DeleteAccess(ctx, "s-9", "S-1-1"), "Server", "s-9")

	must(t, d.DeleteServer(ctx, "s-1"))
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	if left := value[[]server.Access](t)(d.Accesses(ctx, "s-1", server.Page{})); len(left) != 0 {
		t.Errorf("accesses of the deleted server: %+v", left)
	}
	if n := len(value[[]server.Access](t)(d.Accesses(ctx, "s-2", server.Page{}))); n != 1 {
		t.Errorf("%d accesses of the other server, want 1", n)
	}
}

// However many come at once, exactly as many get in as the limit allows, and what is refused leaves nothing.
func TestQuotas(t *testing.T) { both(t, testQuotas) }

func testQuotas(t *testing.T) {
	const limit, callers = 5, 16
	d := open(t, Config{Limits: server.Limits{Servers: limit, UsersPerServer: limit, Workflows: limit, AccessesPerServer: limit}})
	ctx := t.Context()
	first := server.ID("s-0")
	must(t, d.CreateServer(ctx, server.Server{ServerId: first}, nil))
	for _, c := range []struct {
		kind    string
		room    int // how many more are allowed
		create  func(name string) error
		destroy func(name string) error
	}{
		{"User", limit,
			func(n string) error { return d.CreateUser(ctx, first, server.User{UserName: n}) },
			func(n string) error { return d.DeleteUser(ctx, first, n) }},
		{"Access", limit,
			func(n string) error { return d.CreateAccess(ctx, first, server.Access{ExternalId: n}) },
			func(n string) error { return d.DeleteAccess(ctx, first, n) }},
		{"Workflow", limit,
			func(n string) error { return d.CreateWorkflow(ctx, aWorkflow(workflow.ID(n), 1)) },
			func(n string) error { return d.DeleteWorkflow(ctx, workflow.ID(n)) }},
		{"Server", limit - 1,
			func(n string) error { return d.CreateServer(ctx, server.Server{ServerId: server.ID(n)}, nil) },
			func(n string) error { return d.DeleteServer(ctx, server.ID(n)) }},
	} {
		var all sync.WaitGroup
		var in sync.Map
		var made atomic.Int32
		for i := range callers {
			all.Go(func() {
				name := c.kind + string(rune('a'+i))
				err := c.create(name)
				var over *server.QuotaError
				switch {
				case err == nil:
					made.Add(1)
					in.Store(name, true)
				case !errors.As(err, &over) || *over != (server.QuotaError{ResourceType: c.kind, Limit: limit}):
					t.Errorf("%s: %v", c.kind, err)
				}
			})
		}
		all.Wait()
		if int(made.Load()) != c.room {
			t.Errorf("%d of kind %s made, want %d", made.Load(), c.kind, c.room)
		}
		in.Range(func(name, _ any) bool {
			wantExists(t, c.create(name.(string)), c.kind, name.(string)) // and not: the quota is reached
			must(t, c.destroy(name.(string)))
			return false
		})
		must(t, c.create("again")) // there is room again
	}
}

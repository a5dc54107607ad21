package db

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// mutations is how many acknowledged changes TestKilledWhileChanging collects: go test -run KilledWhile -mutations 20000.
var mutations = flag.Int("mutations", 400, "how many changes of the catalogue are acknowledged before the last kill")

// mutateVariable makes the child change the catalogue instead of sending uploads.
const mutateVariable = "TRANSFERD_DB_TEST_MUTATE"

// world is a catalogue by rows: what each row's document is. Tags of the server that all change are rows of their own.
type world map[string]string

// mutation is one change as its client knows it: what it makes of which rows, nil for a row that is gone. It is written
// to the client's log before the call and, as its number alone, after it.
type mutation struct {
	ID   string
	Kind string
	Rows map[string]*string
}

// mutator is the process that is killed: eight clients, each changing things of its own and its tags of one server that
// all share. What was meant stands in the file "meant", what was acknowledged in "acked".
func mutator(ctx context.Context, dir string) error {
	d, err := Open(ctx, Config{Dir: filepath.Join(dir, "data"), URL: os.Getenv(urlVariable)})
	if err != nil {
		return err
	}
	meant, err := appender(filepath.Join(dir, "meant"))
	if err != nil {
		return err
	}
	acked, err := appender(filepath.Join(dir, "acked"))
	if err != nil {
		return err
	}
	var exists *server.ExistsError
	if err := d.CreateServer(ctx, server.Server{ServerId: shared}, nil); err != nil && !errors.As(err, &exists) {
		return err
	}
	was, err := survey(ctx, d)
	if err != nil {
		return err
	}
	errs := make(chan error, 8)
	for i := range cap(errs) {
		c := &client{d: d, name: fmt.Sprintf("client%d", i), mine: world{}}
		for row, doc := range was {
			if strings.Contains(row, c.name) {
				c.mine[row] = doc
			}
		}
		go func() {
			for {
				if err := c.mutate(ctx, meant, acked); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	return <-errs
}

// shared is the server that all clients tag.
const shared = server.ID("s-shared")

// client is one of those who change the catalogue at once. All ids of its things hold its name.
type client struct {
	d    *DB
	name string
	mine world // what it knows to be there
}

// mutate makes one change.
func (c *client) mutate(ctx context.Context, meant, acked func(string) error) error {
	m, call, err := c.pick(ctx)
	if err != nil {
		return err
	}
	line, err := encode(m)
	if err != nil {
		return err
	}
	if err := meant(line); err != nil {
		return err
	}
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", m.Kind, err)
	}
	c.mine.apply(m)
	return acked(m.ID)
}

func (w world) apply(m mutation) {
	for row, doc := range m.Rows {
		if doc == nil {
			delete(w, row)
		} else {
			w[row] = *doc
		}
	}
}

// pick chooses what to change: as a rule something of a server that is there.
func (c *client) pick(ctx context.Context) (mutation, func() error, error) {
	m := mutation{ID: newID(), Rows: map[string]*string{}}
	var failed error
	set := func(row string, v any) {
		doc, err := encode(v)
		failed = errors.Join(failed, err)
		m.Rows[row] = &doc
	}
	servers := c.ids("server/")
	var call func() error
	switch n := rand.IntN(100); {
	case len(servers) < 2 || n < 5:
		m.Kind, call = "create server", c.createServer(ctx, set)
	case n < 10:
		m.Kind, call = "delete server", c.deleteServer(ctx, pickOne(servers), m.Rows)
	case n < 20:
		m.Kind, call = "update server", c.updateServer(ctx, pickOne(servers), m.Rows, set)
	case n < 30:
		m.Kind, call = "tag", c.tag(ctx, m.Rows, set)
	case n < 45:
		m.Kind, call = "workflow", c.workflow(ctx, m.Rows, set)
	case n < 60:
		m.Kind, call = "host key", c.hostKey(ctx, server.ID(pickOne(servers)), m.Rows, set)
	case n < 80:
		m.Kind, call = "user", c.user(ctx, server.ID(pickOne(servers)), m.Rows, set)
	default:
		m.Kind, call = "access", c.access(ctx, server.ID(pickOne(servers)), m.Rows, set)
	}
	return m, call, failed
}

type setter = func(row string, v any)

func pickOne[T any](all []T) T { return all[rand.IntN(len(all))] }

// ids are the last parts of the rows below a prefix.
func (c *client) ids(prefix string) []string {
	var ids []string
	for row := range c.mine {
		if id, ok := strings.CutPrefix(row, prefix); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// fresh is an id that was never used.
func (c *client) fresh(kind string) string { return kind + "-" + c.name + "-" + newID() }

func (c *client) createServer(ctx context.Context, set setter) func() error {
	s := server.Server{ServerId: server.ID(c.fresh("s")), State: server.Offline}
	var keys []hostkeys.Key
	for i := range 1 + rand.IntN(3) {
		keys = append(keys, keyOf(c.fresh("k"), "ssh-rsa", i))
		set(fmt.Sprintf("key/%s/%s", s.ServerId, keys[i].HostKeyId), keys[i])
	}
	s.HostKeyFingerprint = keys[0].Fingerprint
	c.attach(&s, map[string]*string{}, set)
	set("server/"+string(s.ServerId), s)
	return func() error { return c.d.CreateServer(ctx, s, keys) }
}

// attach attaches one of the client's workflows, or none.
func (c *client) attach(s *server.Server, rows map[string]*string, set setter) {
	row := fmt.Sprintf("attachment/%s/%s", s.ServerId, workflow.OnUpload)
	s.WorkflowDetails = nil
	if _, there := c.mine[row]; there {
		rows[row] = nil
	}
	if flows := c.ids("workflow/"); len(flows) > 0 && rand.IntN(2) == 0 {
		flow := pickOne(flows)
		s.WorkflowDetails = &server.WorkflowDetails{OnUpload: []server.WorkflowDetail{{WorkflowId: flow, ExecutionRole: "r"}}}
		set(row, flow)
	}
}

func (c *client) deleteServer(ctx context.Context, id string, rows map[string]*string) func() error {
	for row := range c.mine {
		if strings.Contains(row, "/"+id) {
			rows[row] = nil
		}
	}
	return func() error { return c.d.DeleteServer(ctx, server.ID(id)) }
}

func (c *client) updateServer(ctx context.Context, id string, rows map[string]*string, set setter) func() error {
	var s server.Server
	if err := json.Unmarshal([]byte(c.mine["server/"+id]), &s); err != nil {
		return func() error { return err }
	}
	s.PreAuthenticationLoginBanner = newID()
	c.attach(&s, rows, set)
	set("server/"+id, s)
	return func() error {
		return c.d.UpdateServer(ctx, s.ServerId, func(there *server.Server) error {
			there.PreAuthenticationLoginBanner, there.WorkflowDetails = s.PreAuthenticationLoginBanner, s.WorkflowDetails
			return nil
		})
	}
}

func (c *client) tag(ctx context.Context, rows map[string]*string, set setter) func() error {
	add, drop := c.fresh("t"), ""
	set("tag/"+add, "v")
	if tags := c.ids("tag/"); len(tags) > 3 {
		drop = pickOne(tags)
		rows["tag/"+drop] = nil
	}
	return func() error {
		return c.d.UpdateServer(ctx, shared, func(s *server.Server) error {
			s.Tags = slices.DeleteFunc(s.Tags, func(t server.Tag) bool { return t.Key == drop })
			s.Tags = append(s.Tags, server.Tag{Key: add, Value: "v"})
			return nil
		})
	}
}

func (c *client) workflow(ctx context.Context, rows map[string]*string, set setter) func() error {
	w := aWorkflow(workflow.ID(c.fresh("w")), 1)
	free := slices.DeleteFunc(c.ids("workflow/"), func(id string) bool { return slices.Contains(c.attached(), id) })
	switch n := rand.IntN(3); {
	case len(free) < 2 || n == 0:
		set("workflow/"+string(w.WorkflowId), w)
		return func() error { return c.d.CreateWorkflow(ctx, w) }
	case n == 1:
		w.WorkflowId, w.Description = workflow.ID(pickOne(free)), newID()
		set("workflow/"+string(w.WorkflowId), w)
		return func() error {
			return c.d.UpdateWorkflow(ctx, w.WorkflowId, func(there *workflow.Workflow) error { *there = w; return nil })
		}
	default:
		id := pickOne(free)
		rows["workflow/"+id] = nil
		return func() error { return c.d.DeleteWorkflow(ctx, workflow.ID(id)) }
	}
}

// attached are the workflows that cannot be deleted.
func (c *client) attached() []string {
	var ids []string
	for row, doc := range c.mine {
		if strings.HasPrefix(row, "attachment/") {
			ids = append(ids, strings.Trim(doc, `"`))
		}
	}
	return ids
}

// hostKey adds, describes or deletes a key. Only keys that are not the oldest go, so that the server's document stays.
func (c *client) hostKey(ctx context.Context, id server.ID, rows map[string]*string, set setter) func() error {
	prefix := fmt.Sprintf("key/%s/", id)
	k := keyOf(c.fresh("k"), "ssh-rsa", 10)
	var later []string
	for _, key := range c.ids(prefix) {
		var there hostkeys.Key
		if err := json.Unmarshal([]byte(c.mine[prefix+key]), &there); err != nil {
			return func() error { return err }
		}
		if there.DateImported.Equal(k.DateImported) {
			later = append(later, key)
			k.Description = newID()
		}
	}
	switch n := rand.IntN(3); {
	case len(later) == 0 || n == 0:
		set(prefix+k.HostKeyId, k)
		return func() error { return c.d.AddHostKey(ctx, id, k) }
	case n == 1:
		key := pickOne(later)
		var there hostkeys.Key
		err := json.Unmarshal([]byte(c.mine[prefix+key]), &there)
		there.Description = k.Description
		set(prefix+key, there)
		return func() error {
			return errors.Join(err, c.d.UpdateHostKey(ctx, id, key, func(h *hostkeys.Key) error {
				h.Description = k.Description
				return nil
			}))
		}
	default:
		key := pickOne(later)
		rows[prefix+key] = nil
		return func() error { return c.d.DeleteHostKey(ctx, id, key) }
	}
}

func (c *client) user(ctx context.Context, id server.ID, rows map[string]*string, set setter) func() error {
	prefix := fmt.Sprintf("user/%s/", id)
	u := server.User{UserName: c.fresh("u"), Role: newID(), HomeDirectory: strings.Repeat("/deep", 50)}
	users := c.ids(prefix)
	switch n := rand.IntN(4); {
	case len(users) == 0 || n < 2:
		set(prefix+u.UserName, u)
		return func() error { return c.d.CreateUser(ctx, id, u) }
	case n == 2:
		u.UserName = pickOne(users)
		set(prefix+u.UserName, u)
		return func() error {
			return c.d.UpdateUser(ctx, id, u.UserName, func(there *server.User) error { *there = u; return nil })
		}
	default:
		name := pickOne(users)
		rows[prefix+name] = nil
		return func() error { return c.d.DeleteUser(ctx, id, name) }
	}
}

func (c *client) access(ctx context.Context, id server.ID, rows map[string]*string, set setter) func() error {
	prefix := fmt.Sprintf("access/%s/", id)
	a := server.Access{ExternalId: c.fresh("S-1"), Role: newID()}
	there := c.ids(prefix)
	switch n := rand.IntN(4); {
	case len(there) == 0 || n < 2:
		set(prefix+a.ExternalId, a)
		return func() error { return c.d.CreateAccess(ctx, id, a) }
	case n == 2:
		a.ExternalId = pickOne(there)
		set(prefix+a.ExternalId, a)
		return func() error {
			return c.d.UpdateAccess(ctx, id, a.ExternalId, func(there *server.Access) error { *there = a; return nil })
		}
	default:
		external := pickOne(there)
		rows[prefix+external] = nil
		return func() error { return c.d.DeleteAccess(ctx, id, external) }
	}
}

// survey reads the whole catalogue, and fails if rows that are written together do not fit together.
func survey(ctx context.Context, d *DB) (world, error) {
	w := world{}
	put := func(row string, v any) error {
		doc, err := encode(v)
		w[row] = doc
		return err
	}
	servers, err := d.Servers(ctx, server.Page{})
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range servers {
		errs = append(errs, surveyServer(ctx, d, s, put))
	}
	flows, err := d.Workflows(ctx, server.Page{})
	errs = append(errs, err)
	for _, flow := range flows {
		errs = append(errs, put("workflow/"+string(flow.WorkflowId), flow))
	}
	errs = append(errs, d.reader().Query(ctx, func(scan func(...any) error) error {
		var id, event, flow string
		err := scan(&id, &event, &flow)
		return errors.Join(err, put("attachment/"+id+"/"+event, flow))
	}, `SELECT server_id, event, workflow_id FROM attachments`))
	return w, errors.Join(errs...)
}

func surveyServer(ctx context.Context, d *DB, s server.Server, put func(string, any) error) error {
	users, err1 := d.Users(ctx, s.ServerId, server.Page{})
	keys, err2 := d.HostKeys(ctx, s.ServerId)
	accesses, err3 := d.Accesses(ctx, s.ServerId, server.Page{})
	errs := []error{err1, err2, err3}
	if s.UserCount != len(users) {
		errs = append(errs, fmt.Errorf("server %s counts %d users and has %d", s.ServerId, s.UserCount, len(users)))
	}
	if want := shownFingerprint(keys); s.HostKeyFingerprint != want {
		errs = append(errs, fmt.Errorf("server %s shows %s, want %s", s.ServerId, s.HostKeyFingerprint, want))
	}
	s.UserCount = 0
	if s.ServerId == shared {
		for _, tag := range s.Tags {
			errs = append(errs, put("tag/"+tag.Key, tag.Value))
		}
	} else {
		errs = append(errs, put("server/"+string(s.ServerId), s))
	}
	for _, u := range users {
		errs = append(errs, put(fmt.Sprintf("user/%s/%s", s.ServerId, u.UserName), u))
	}
	for _, k := range keys {
		errs = append(errs, put(fmt.Sprintf("key/%s/%s", s.ServerId, k.HostKeyId), k))
	}
	for _, a := range accesses {
		errs = append(errs, put(fmt.Sprintf("access/%s/%s", s.ServerId, a.ExternalId), a))
	}
	return errors.Join(errs...)
}

// A daemon that is killed while it changes the catalogue has made all changes that it acknowledged, and of those that it
// did not, each wholly or not at all.
func TestKilledWhileChanging(t *testing.T) { both(t, testKilledWhileChanging) }

func testKilledWhileChanging(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	dir, ctx := t.TempDir(), t.Context()
	want, done := world{}, map[string]int{}
	acked, cut, cutMade, kills := 0, 0, 0, 0
	enough, within := *mutations, killWithin
	if strings.HasSuffix(t.Name(), onPostgres) {
		enough, within = enough/4, 400*time.Millisecond // to start a process takes longer there than its changes
	}
	for seen := 0; acked < enough; kills++ {
		kill := spawn(t, dir, mutateVariable+"=1")
		select { // the moment is what the test varies
		case <-time.After(rand.N(within)):
		case <-ctx.Done():
		}
		kill()
		d, err := Open(ctx, where(t, Config{Dir: filepath.Join(dir, "data")}))
		must(t, err)
		got := value[world](t)(survey(ctx, d))
		must(t, d.Close())

		meant, answers := readLog(t, dir, seen)
		seen += len(meant)
		for _, m := range meant {
			if answers[m.ID] {
				acked++
				done[m.Kind]++
				want.apply(m)
			}
		}
		for _, m := range meant { // each client has at most one of these, and its things are its own
			if answers[m.ID] {
				continue
			}
			cut++
			if made(t, m, want, got) {
				cutMade++
				want.apply(m)
			}
		}
		compare(t, want, got)
	}
	if len(done) != 8 {
		t.Errorf("only these were acknowledged: %v", done)
	}
	t.Logf("%d kills, %d changes acknowledged and all there (%v), %d cut: %d made, %d not, none half", kills, acked, done,
		cut, cutMade, cut-cutMade)
}

// readLog reads what was meant since the last kill, and all answers.
func readLog(t *testing.T, dir string, seen int) (meant []mutation, answers map[string]bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "meant"))
	must(t, err)
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, line := range all[seen:] {
		var m mutation
		must(t, json.Unmarshal([]byte(line), &m))
		meant = append(meant, m)
	}
	answers = map[string]bool{}
	for _, id := range lines(t, filepath.Join(dir, "acked")) {
		answers[id] = true
	}
	return meant, answers
}

// made tells whether a change without an answer was made, and fails if it was made in part.
func made(t *testing.T, m mutation, before, now world) bool {
	t.Helper()
	yes, no := 0, 0
	for row, doc := range m.Rows {
		was, wasThere := before[row]
		is, isThere := now[row]
		if doc == nil && !wasThere || doc != nil && wasThere && was == *doc {
			continue // a row that stays as it was tells nothing
		}
		switch {
		case doc == nil && !isThere, doc != nil && isThere && is == *doc:
			yes++
		case isThere == wasThere && is == was:
			no++
		default:
			t.Errorf("%s: row %s is %q", m.Kind, row, is)
		}
	}
	if yes > 0 && no > 0 {
		t.Errorf("%s is half made: %d rows are written, %d are not", m.Kind, yes, no)
	}
	return yes > 0
}

func compare(t *testing.T, want, got world) {
	t.Helper()
	if maps.Equal(want, got) {
		return
	}
	for row, doc := range want {
		if got[row] != doc {
			t.Errorf("row %s is %q, was acknowledged as %q", row, got[row], doc)
		}
	}
	for row, doc := range got {
		if _, ok := want[row]; !ok {
			t.Errorf("row %s (%q) was never acknowledged", row, doc)
		}
	}
	t.FailNow()
}

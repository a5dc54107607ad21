package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

func count(t testing.TB, d *DB, rows string) (n int) {
	t.Helper()
	must(t, d.reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM `+rows).Scan(&n))
	return n
}

// age moves all that stands in the journal and among the executions so far back, as if it had happened then.
func age(t *testing.T, d *DB, by time.Duration) {
	t.Helper()
	must(t, d.tx(t.Context(), "test", func(ctx context.Context, tx Tx) error {
		for _, table := range []string{"uploads", "executions"} {
			_, err := tx.Exec(ctx, `UPDATE `+table+` SET began = began - $1,
				ended = CASE WHEN ended > 0 THEN ended - $1 ELSE 0 END`, by.Milliseconds())
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

func TestPrune(t *testing.T) { both(t, testPrune) }

func testPrune(t *testing.T) {
	const many, stepped, month = 2*pruneBatch + 7, 3, 30 * 24 * time.Hour
	d, ctx := open(t, Config{}), t.Context()
	id := attached(t, d, 0) // executions that end at once
	each(many, 64, func(int) {
		u := anUpload(d, id)
		if err := errors.Join(d.Begin(ctx, u), d.End(ctx, u, whole())); err != nil {
			t.Error(err)
		}
	})
	must(t, d.UpdateWorkflow(ctx, "w-whole", func(w *workflow.Workflow) error { *w = aWorkflow("w-whole", 2); return nil }))
	for range stepped {
		send(t, d, id, whole())
	}
	stop := work(t, d, succeed(d), 4)
	eventually(t, "all executions end", long, func() bool { return count(t, d, `executions WHERE ended = 0`) == 0 })
	stop()
	open1, running := anUpload(d, id), send(t, d, id, whole()) // nobody works on the second one
	must(t, d.Begin(ctx, open1))
	age(t, d, month+time.Hour)
	recent := send(t, d, id, whole())

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if uploads, executions, err := d.Prune(ended, d.now().Add(-month)); !errors.Is(err, context.Canceled) || uploads+executions != 0 {
		t.Errorf("with an ended context: %d, %d, %v", uploads, executions, err)
	}
	if uploads, executions, err := d.Prune(ctx, d.now().Add(-month-2*time.Hour)); err != nil || uploads+executions != 0 {
		t.Errorf("too young: %d, %d, %v", uploads, executions, err)
	}
	uploads, executions, err := d.Prune(ctx, d.now().Add(-month))
	if err != nil || uploads != many+stepped+1 || executions != many+stepped {
		t.Errorf("pruned %d uploads, %d executions (%v), want one less of %d", uploads, executions, err, many+stepped+1)
	}
	var left []string
	for _, r := range value[[]UploadRecord](t)(d.Uploads(ctx, server.Page{})) {
		left = append(left, r.Upload.ID)
	}
	if want := []string{open1.ID, string(recent)}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want the open and the recent %v", left, want)
	}
	if n := count(t, d, `step_results`); n != 0 {
		t.Errorf("%d results of forgotten executions", n)
	}
	stop = work(t, d, succeed(d), 2) // what was under way goes on
	for _, e := range []workflow.ExecutionID{running, recent} {
		eventually(t, "execution ends", long, hasStatus(t, d, e, workflow.Completed))
	}
	stop()
	must(t, d.End(ctx, open1, whole())) // and causes an execution that nobody works on
	if uploads, executions, err := d.Prune(ctx, d.now().Add(time.Hour)); err != nil || uploads != 2 || executions != 2 {
		t.Errorf("pruned %d and %d of the rest: %v", uploads, executions, err)
	}
}

// The latest upload to a location is found by an index, also where an older version began it.
func TestLastUpload(t *testing.T) { both(t, testLastUpload) }

func testLastUpload(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	at := storage.Location{Domain: "S3", Store: "bucket", Name: "in/file"}
	if _, found, err := d.LastUpload(ctx, at); found || err != nil {
		t.Errorf("found in an empty journal: %v", err)
	}
	var sent []session.Upload
	for i := range 3 {
		u := anUpload(d, "s-1")
		u.Began = u.Began.Add(time.Duration(i) * time.Second)
		sent = append(sent, u)
	}
	elsewhere := anUpload(d, "s-1")
	elsewhere.Location.Store, elsewhere.Began = "other", elsewhere.Began.Add(time.Hour)
	for _, u := range append([]session.Upload{elsewhere, sent[2]}, sent[:2]...) {
		must(t, d.Begin(ctx, u))
	}
	v := whole()
	must(t, d.End(ctx, sent[2], v))
	last, found, err := d.LastUpload(ctx, at)
	if want := (UploadRecord{Upload: sent[2], Verdict: &v}); err != nil || !found || !reflect.DeepEqual(last, want) {
		t.Errorf("last %+v, %v, %v, want %+v", last, found, err, want)
	}
	if last, _, err := d.LastUpload(ctx, elsewhere.Location); err != nil || last.Upload.ID != elsewhere.ID || last.Verdict != nil {
		t.Errorf("elsewhere %+v, %v", last, err)
	}
	// Another location that happens to have the same place is passed over.
	must(t, d.tx(ctx, "test", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `UPDATE uploads SET place = $1 WHERE id = $2`, place(at), elsewhere.ID)
		return err
	}))
	if last, found, err := d.LastUpload(ctx, at); err != nil || !found || last.Upload.ID != sent[2].ID {
		t.Errorf("beside a stranger %+v, %v", last, err)
	}
	if d.Clustered() {
		return // what follows is SQLite's way to tell of a plan
	}
	var plan strings.Builder
	must(t, d.reader().Query(ctx, func(scan func(...any) error) error {
		var id, parent, unused int
		var detail string
		err := scan(&id, &parent, &unused, &detail)
		fmt.Fprintln(&plan, detail)
		return err
	}, `EXPLAIN QUERY PLAN SELECT token, doc, verdict FROM uploads WHERE place = $1 ORDER BY began DESC, id DESC`, 1))
	if !strings.Contains(plan.String(), "uploads_place") || strings.Contains(plan.String(), "SCAN") {
		t.Errorf("plan: %s", &plan)
	}
}

// A database of the version before is brought up to date: its uploads are found by their location, its host keys and
// servers stay.
func TestMigrationFromTheVersionBefore(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	at := func(i int) storage.Location {
		return storage.Location{Domain: "S3", Store: "bucket", Name: fmt.Sprint("in/", i)}
	}
	const many = 2345 // more than two pages
	writeVersion2(t, filepath.Join(dir, "transferd.db"), many, at)

	d := open(t, Config{Dir: dir, Node: "n"})
	for _, i := range []int{0, 1, 999, 1000, 1001, many - 1} {
		r, found, err := d.LastUpload(ctx, at(i))
		if err != nil || !found || r.Upload.ID != fmt.Sprint("u-", i) {
			t.Errorf("upload %d: %+v, %v, %v", i, r, found, err)
		}
	}
	if n := count(t, d, `uploads WHERE place = 0`); n != 0 {
		t.Errorf("%d uploads without a place", n)
	}
	must(t, d.AddHostKey(ctx, "s-1", keyOf("new", "ssh-rsa", 9)))
	must(t, d.DeleteHostKey(ctx, "s-1", "hostkey-old"))
	if got := shown(t, d, "s-1"); got != "SHA256:new" {
		t.Errorf("server shows %q", got)
	}
	must(t, d.CreateAccess(ctx, "s-1", server.Access{ExternalId: "S-1-1"}))
}

// writeVersion2 makes a database as the version before left it: a server with a key, and ended uploads.
func writeVersion2(t *testing.T, file string, uploads int, at func(int) storage.Location) {
	t.Helper()
	ctx := t.Context()
	pool, err := sql.Open("sqlite", "file:"+file)
	must(t, err)
	defer pool.Close()
	migrations, err := fs.Sub(migrations, "migrations")
	must(t, err)
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, migrations, goose.WithDisableGlobalRegistry(true))
	must(t, err)
	_, err = p.UpTo(ctx, 2)
	must(t, err)
	tx, err := pool.BeginTx(ctx, nil)
	must(t, err)
	exec := func(query string, args ...any) {
		t.Helper()
		_, err := tx.ExecContext(ctx, query, args...)
		must(t, err)
	}
	exec(`INSERT INTO servers (id, rev, doc) VALUES ('s-1', 1, '{"ServerId":"s-1"}')`)
	key := value[string](t)(encode(keyOf("old", "ssh-ed25519", 0)))
	exec(`INSERT INTO host_keys (server_id, id, imported, doc) VALUES ('s-1', 'hostkey-old', 1, $1)`, key)
	for i := range uploads {
		u := session.Upload{ID: fmt.Sprint("u-", i), Node: "n", Server: "s-1", Location: at(i), Began: time.Now()}
		exec(`INSERT INTO uploads (id, node, server_id, began, ended, token, doc, verdict)
			VALUES ($1, 'n', 's-1', $2, 1, '', $3, '')`, u.ID, i+1, value[string](t)(encode(u)))
	}
	must(t, tx.Commit())
}

// TestRecentUploads: the latest and whatever is under way, oldest first.
func TestRecentUploads(t *testing.T) { both(t, testRecentUploads) }

func testRecentUploads(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	var ids []string
	for i := range 5 {
		u := anUpload(d, "s-1")
		u.Began = u.Began.Add(time.Duration(i) * time.Second)
		must(t, d.Begin(ctx, u))
		if i > 0 { // the oldest stays open
			must(t, d.End(ctx, u, whole()))
		}
		ids = append(ids, u.ID)
	}
	recent, err := d.RecentUploads(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range recent {
		got = append(got, r.Upload.ID)
	}
	if want := []string{ids[0], ids[3], ids[4]}; !reflect.DeepEqual(got, want) {
		t.Errorf("recent %v, want %v", got, want)
	}
}

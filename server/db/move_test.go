package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/workflow"
)

// embedded makes a state with something of everything, as a killed daemon leaves it: an upload under way, an execution
// that is done, one whose step ran, one that waits.
func embedded(t *testing.T, dir string) (before world, running, waiting workflow.ExecutionID, open1 session.Upload) {
	t.Helper()
	ctx := t.Context()
	embeddedTables.put(t, dir)
	d, err := Open(ctx, Config{Dir: dir, Drain: 10 * time.Millisecond})
	must(t, err)
	id := attached(t, d, 2)
	must(t, errors.Join(d.AddHostKey(ctx, id, keyOf("one", "ssh-rsa", 1)), d.CreateAccess(ctx, id, server.Access{ExternalId: "S-1-1"})))
	for i := range 1200 {
		must(t, d.CreateUser(ctx, id, server.User{UserName: fmt.Sprint("Ünal-", i), Role: "r\u2028\"'\\"}))
	}
	stop := work(t, d, succeed(d), 2)
	done := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, done, workflow.Completed))
	stop()
	running = send(t, d, id, whole())
	must(t, d.tx(ctx, "test", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `UPDATE river_job SET state = 'running', attempt = 1, attempted_by = '["`+d.Node()+`"]',
			attempted_at = '2026-01-01 00:00:00' WHERE state = 'available'`)
		return err
	}))
	waiting = send(t, d, id, whole())
	open1 = anUpload(d, id)
	must(t, errors.Join(d.Begin(ctx, open1), d.Note(ctx, open1.ID, "token")))
	before = value[world](t)(survey(ctx, d))
	must(t, d.Close())
	return before, running, waiting, open1
}

func TestMove(t *testing.T) {
	t.Parallel()
	ctx, dir, log := t.Context(), filepath.Join(t.TempDir(), "db"), slog.New(slog.DiscardHandler)
	url := servers.empty(t)
	before, running, waiting, open1 := embedded(t, dir)

	cut, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Move(cut, dir, url, log); err == nil {
		t.Error("moved although it was cut short")
	}
	moved := value[[]MovedTable](t)(Move(ctx, dir, url, log))
	rows := map[string]int{}
	for _, m := range moved {
		rows[m.Name] = m.Rows
	}
	if rows["users"] != 1200 || rows["uploads"] != 4 || rows["executions"] != 3 || rows["jobs that are not done"] != 2 {
		t.Errorf("moved %v", rows)
	}
	if again, err := Move(ctx, dir, url, log); err != nil || len(again) != 0 {
		t.Errorf("a second time: %v, %v", again, err)
	}
	if d, err := Open(ctx, Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "moved to PostgreSQL") {
		t.Errorf("the old state opens: %v, %v", d, err)
	}
	other := filepath.Join(t.TempDir(), "db")
	d, err := Open(ctx, Config{Dir: other})
	must(t, errors.Join(err, d.Close()))
	if _, err := Move(ctx, other, url, log); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("two states in one: %v", err)
	}

	d = open(t, Config{URL: url, Dir: dir, Beat: 300 * time.Millisecond})
	compare(t, before, value[world](t)(survey(ctx, d)))
	if in := inherited(t, d); len(in.Uploads) != 1 || in.Uploads[0].ID != open1.ID || in.Uploads[0].Token != "token" {
		t.Errorf("inherited %+v", in)
	}
	work(t, d, succeed(d), 2)
	for id, attempt := range map[workflow.ExecutionID]int{running: 2, waiting: 1} {
		eventually(t, "completed", long, hasStatus(t, d, id, workflow.Completed))
		if r := value[workflow.Execution](t)(d.Execution(ctx, id)).Results.Steps; r[0].Attempt != attempt {
			t.Errorf("execution %s: %+v, want attempt %d", id, r, attempt)
		}
	}
	if keys := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1")); len(keys) != 1 || string(keys[0].PEM) == "" {
		t.Errorf("host keys %+v", keys)
	}
}

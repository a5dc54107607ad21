package db

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/transferd/transferd/server/db/pgtest"
)

// urlVariable tells a child which database it has; unset, SQLite.
const urlVariable = "TRANSFERD_DB_TEST_URL"

// onPostgres is the part of a test's name that chooses its database: see where.
const onPostgres = "postgres"

// both runs a test on both databases.
func both(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	for _, name := range []string{"sqlite", onPostgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// where completes a configuration with the test's database: a directory, and on PostgreSQL a database for each. Its tables
// are there already, as those of a new one are: to make them costs more than most tests do.
func where(t testing.TB, cfg Config) Config {
	t.Helper()
	fresh := cfg.Dir == ""
	if fresh {
		cfg.Dir = t.TempDir()
	}
	if cfg.URL == "" && strings.Contains(t.Name()+"/", "/"+onPostgres+"/") {
		cfg.URL = servers.database(t, cfg.Dir)
	} else if fresh && cfg.URL == "" {
		embeddedTables.put(t, cfg.Dir)
	}
	return cfg
}

// embeddedTables is a SQLite database with its tables and nothing in them, made once.
var embeddedTables sqliteFile

type sqliteFile struct {
	once    sync.Once
	content []byte
	err     error
}

// put gives a directory the file.
func (f *sqliteFile) put(t testing.TB, dir string) {
	t.Helper()
	f.once.Do(func() {
		made := t.TempDir()
		if f.err = makeTables(Config{Dir: made}); f.err == nil {
			f.content, f.err = os.ReadFile(filepath.Join(made, fileName))
		}
	})
	must(t, f.err)
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, fileName), f.content, 0o600))
}

// makeTables makes a database's tables and leaves it, before anybody was a node there.
func makeTables(cfg Config) error {
	ctx, d := context.Background(), &DB{log: slog.New(slog.DiscardHandler)}
	err := d.openBase(ctx, cfg)
	if err == nil {
		err = d.base.migrate(ctx)
	}
	return errors.Join(err, d.Close())
}

// servers is the one PostgreSQL of all tests of this package; the child processes and TestMain have no test to keep it in.
var servers postgresServer

type postgresServer struct {
	once    sync.Once
	cluster *pgtest.Cluster
	err     error
}

func (s *postgresServer) start(t testing.TB) *pgtest.Cluster {
	t.Helper()
	s.once.Do(func() {
		ctx := context.Background()
		if s.cluster, s.err = pgtest.Start(ctx); s.err != nil {
			return
		}
		if s.err = s.cluster.Create(ctx, template, ""); s.err == nil {
			s.err = makeTables(Config{URL: s.cluster.URL(template)})
		}
	})
	if errors.Is(s.err, pgtest.ErrMissing) {
		t.Skip(s.err)
	}
	must(t, s.err)
	return s.cluster
}

// template is a database with its tables and nothing in them.
const template = "tables"

// database gives the URL of the database that belongs to a name.
func (s *postgresServer) database(t testing.TB, name string) string {
	t.Helper()
	return s.copy(t, name, template)
}

// empty gives the URL of a database without tables.
func (s *postgresServer) empty(t testing.TB) string {
	t.Helper()
	return s.copy(t, t.TempDir(), "")
}

func (s *postgresServer) copy(t testing.TB, name, template string) string {
	t.Helper()
	cluster := s.start(t)
	sum := sha256.Sum256([]byte(name))
	id := "test_" + hex.EncodeToString(sum[:8])
	must(t, cluster.Create(context.Background(), id, template))
	return cluster.URL(id)
}

func (s *postgresServer) stop() error {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Stop()
}

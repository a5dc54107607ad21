package db

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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

// where completes a configuration with the test's database: a directory, and on PostgreSQL a database for each.
func where(t testing.TB, cfg Config) Config {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.URL == "" && strings.Contains(t.Name()+"/", "/"+onPostgres+"/") {
		cfg.URL = servers.database(t, cfg.Dir)
	}
	return cfg
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
	s.once.Do(func() { s.cluster, s.err = pgtest.Start(context.Background()) })
	if errors.Is(s.err, pgtest.ErrMissing) {
		t.Skip(s.err)
	}
	must(t, s.err)
	return s.cluster
}

// database gives the URL of the database that belongs to a name.
func (s *postgresServer) database(t testing.TB, name string) string {
	t.Helper()
	cluster := s.start(t)
	sum := sha256.Sum256([]byte(name))
	id := "test_" + hex.EncodeToString(sum[:8])
	must(t, cluster.Create(context.Background(), id))
	return cluster.URL(id)
}

func (s *postgresServer) stop() error {
	if s.cluster == nil {
		return nil
	}
	return s.cluster.Stop()
}

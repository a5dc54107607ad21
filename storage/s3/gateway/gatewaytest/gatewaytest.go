// Package gatewaytest gives tests a real S3 store: a child of the test binary.
//
// A package whose tests want one has this TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(gatewaytest.Main(m)) }
//
// It knows nothing of what is tested with the store.
package gatewaytest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/transferd/transferd/storage/s3/gateway"
)

// The one account of every store that Start starts.
const (
	AccessKey = "transferd-test"
	SecretKey = "transferd-test-secret"
	Region    = "us-east-1"
)

// childEnv makes the test binary a store instead of running tests.
const childEnv = "TRANSFERD_TEST_S3_GATEWAY=1"

// IsChild reports whether this process is to be a store, for a TestMain that has more to do than Main.
func IsChild() bool { return os.Getenv("TRANSFERD_TEST_S3_GATEWAY") != "" }

// Main runs the tests, or the store in a child of them.
func Main(m *testing.M) int {
	if !IsChild() {
		return m.Run()
	}
	if err := gateway.Child(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Start starts a store on a free port over a directory of its own. It ends with the test.
func Start(t testing.TB) *gateway.Process {
	t.Helper()
	return StartAt(t, "127.0.0.1:0", t.TempDir())
}

// StartAt starts a store at an address over a directory, so that a killed one can come back with what it had.
func StartAt(t testing.TB, addr, root string) *gateway.Process {
	t.Helper()
	p, err := Spawn(t.Context(), addr, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// StartUsers is Start for a store with accounts besides, secrets by access key.
func StartUsers(t testing.TB, users map[string]string) *gateway.Process {
	t.Helper()
	cfg := config("127.0.0.1:0", t.TempDir())
	cfg.Config.Users = users
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := gateway.Spawn(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Spawn is StartAt for whoever starts a store outside a test, such as a TestMain; the caller has to Stop it.
func Spawn(ctx context.Context, addr, root string) (*gateway.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return gateway.Spawn(ctx, config(addr, root))
}

// patience is how long a store may take to answer.
const patience = 20 * time.Second

func config(addr, root string) gateway.SpawnConfig {
	return gateway.SpawnConfig{
		Config: gateway.Config{Root: root, Addr: addr, AccessKey: AccessKey, SecretKey: SecretKey, Region: Region},
		Args:   []string{"-test.run=^$"},
		Env:    []string{childEnv},
		Stderr: os.Stderr,
	}
}

// Package doortest is what the tests of the protocols stand on: a store whose far side does what a test says, a journal and
// a log that tests can wait on, and other people's clients. It knows no protocol.
package doortest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen; it is generous because the machine may be busy.
const patience = 60 * time.Second

// Eventually polls until something is true.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}

// Logs is a log that tests can wait on.
type Logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Entries are those of an activity.
func (l *Logs) Entries(activity string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["activity-type"] == activity {
			found = append(found, entry)
		}
	}
	return found
}

// Await waits for the first entry of an activity.
func (l *Logs) Await(t testing.TB, activity string) map[string]any {
	t.Helper()
	var found []map[string]any
	Eventually(t, activity+" in the log", func() bool { found = l.Entries(activity); return len(found) > 0 })
	return found[0]
}

// Run runs a client. It must be installed: make test sees to that.
func Run(t testing.TB, stdin, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v (make test installs what the tests need)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Random is a file's content.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// File makes a file on the disk and returns its name.
func File(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

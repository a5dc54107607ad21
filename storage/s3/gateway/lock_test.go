package gateway

import (
	"context"
	"errors"
	"testing"
)

// TestOneServesADirectory: the successor of a store that is still finishing its requests waits for its end.
func TestOneServesADirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	unlock, err := lock(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 10*lockPoll)
	defer cancel()
	if _, err := lock(impatient, root); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: %v, want %v", err, context.DeadlineExceeded)
	}
	second := make(chan error, 1)
	go func() {
		unlock, err := lock(t.Context(), root)
		if err == nil {
			unlock()
		}
		second <- err
	}()
	unlock()
	if err := <-second; err != nil {
		t.Errorf("after the first one's end: %v", err)
	}
}

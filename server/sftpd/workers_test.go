package sftpd

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWorkers: nobody waits for another's work, and a worker that rests takes the next.
func TestWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		var all sync.WaitGroup
		gate := make(chan struct{})
		for range 10 {
			all.Add(1)
			w.run(func() { defer all.Done(); <-gate })
		}
		synctest.Wait() // all ten have begun
		close(gate)
		all.Wait()
		synctest.Wait() // and rest
		for range 10 {
			done := false
			w <- func() { done = true } // nobody but a worker receives
			synctest.Wait()
			if !done {
				t.Error("work that a resting worker took was not done")
			}
		}
		time.Sleep(2 * workerRests) // the bubble's clock: they end, else synctest.Test does not
		select {
		case w <- func() {}:
			t.Error("a worker rests for ever")
		default:
		}
	})
}

package sftpd

import "time"

// workerRests is how long a worker without work stays.
const workerRests = 100 * time.Millisecond

// workers run what ends uploads, each in a goroutine of its own that then waits a moment for the next: a commit goes deep
// into the store's client, and the stack that a new goroutine has to grow for that costs as much as the journal's entry.
type workers chan func()

func newWorkers() workers { return make(workers) }

// run starts f without waiting for anything.
func (w workers) run(f func()) {
	select {
	case w <- f:
	default:
		go w.work(f)
	}
}

func (w workers) work(f func()) {
	rest := time.NewTimer(workerRests)
	defer rest.Stop()
	for {
		f()
		rest.Reset(workerRests)
		select {
		case f = <-w:
		case <-rest.C:
			return
		}
	}
}

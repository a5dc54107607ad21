package db

import (
	"sync"
	"time"

	"github.com/transferd/transferd/workflow"
)

// Throttle bounds how many executions of a workflow begin: AWS's bucket holds 100 and gets one a second, and what comes
// when it is empty is dropped, not queued (user guide, "Managed workflows limits"). The zero value bounds nothing.
type Throttle struct {
	PerSecond float64
	Burst     int
}

// buckets are the throttle's state, in memory: each node of a cluster has its own, and a restart fills them.
type buckets struct {
	Throttle
	mu   sync.Mutex // guards left
	left map[workflow.ID]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// take tells whether an execution of the workflow may begin now.
func (b *buckets) take(id workflow.ID, now time.Time) bool {
	if b.PerSecond <= 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	full := float64(max(b.Burst, 1))
	if b.left == nil {
		b.left = map[workflow.ID]bucket{}
	}
	c, known := b.left[id]
	if !known {
		c = bucket{full, now}
	}
	if passed := now.Sub(c.at); passed > 0 {
		c.tokens, c.at = min(full, c.tokens+passed.Seconds()*b.PerSecond), now
	}
	ok := c.tokens >= 1
	if ok {
		c.tokens--
	}
	b.left[id] = c
	return ok
}

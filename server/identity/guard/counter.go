package guard

import (
	"math"
	"time"
)

// counter counts what happened in the last window, with two numbers: those of the current stretch, and those of the one
// before as far as it still reaches into the window.
type counter struct {
	began             time.Time // of the current stretch
	current, previous int
}

func (c *counter) roll(now time.Time, window time.Duration) {
	switch age := now.Sub(c.began); {
	case c.began.IsZero() || age >= 2*window || age < 0: // below zero the clock was set back
		*c = counter{began: now}
	case age >= window:
		*c = counter{began: c.began.Add(window), previous: c.current}
	}
}

func (c *counter) add(now time.Time, window time.Duration) {
	c.roll(now, window)
	c.current++
}

func (c *counter) count(now time.Time, window time.Duration) int {
	c.roll(now, window)
	left := 1 - float64(now.Sub(c.began))/float64(window)
	return c.current + int(math.Ceil(float64(c.previous)*left))
}

// takeBack undoes what was added at a moment, if it still counts.
func (c *counter) takeBack(at, now time.Time, window time.Duration) {
	c.roll(now, window)
	switch {
	case !at.Before(c.began):
		c.current = max(0, c.current-1)
	case !at.Before(c.began.Add(-window)):
		c.previous = max(0, c.previous-1)
	}
}

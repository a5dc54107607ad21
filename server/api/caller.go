package api

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transferd/transferd/server/api/internal/awsjson"
	"github.com/transferd/transferd/server/api/internal/model"
)

// AccessKey is a key that may sign requests, and what it may do with them.
type AccessKey struct {
	ID, Secret string

	// Operations are the only ones that the key may call: names, or patterns with * and ? such as Describe*. None: all.
	Operations []string
	// ReadOnly keys may call what reads the catalogue, Describe* and List*, and of these what Operations has.
	ReadOnly bool

	// RequestsPerSecond is how often the key may call, on average; 0: as often as it likes. Burst is how many calls it
	// may make at once after a rest; 0: as many as a second allows, and at least one.
	RequestsPerSecond float64
	Burst             int
}

// check refuses a key that means something else than its owner thinks. operations are all there are.
func (k AccessKey) check(operations []string) error {
	if k.ID == "" || k.Secret == "" {
		return fmt.Errorf("access key id %q is empty or without a secret", k.ID)
	}
	if k.RequestsPerSecond < 0 || k.Burst < 0 || math.IsNaN(k.RequestsPerSecond) || math.IsInf(k.RequestsPerSecond, 0) {
		return fmt.Errorf("access key id %q: the rate and the burst cannot be negative", k.ID)
	}
	if k.Burst > 0 && k.RequestsPerSecond == 0 {
		return fmt.Errorf("access key id %q has a burst without a rate", k.ID)
	}
	for _, pattern := range k.Operations {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("access key id %q: operation pattern %q: %w", k.ID, pattern, err)
		}
		if !slices.ContainsFunc(operations, func(name string) bool { return matches(pattern, name) }) {
			return fmt.Errorf("access key id %q: there is no operation %q", k.ID, pattern)
		}
	}
	return nil
}

// CheckKeys says what New would refuse about access keys, for whoever reads them from a file.
func CheckKeys(keys ...AccessKey) error {
	m, err := model.Load()
	if err != nil {
		return err
	}
	_, err = newCallers(keys, m.Operations())
	return err
}

// readOperations is what a read-only key may call. TestIdentityProvider is not among it: it tries passwords.
func readOperations() []string { return []string{"Describe*", "List*"} }

// caller is an access key at work.
type caller struct {
	key    AccessKey
	bucket *bucket // nil: no limit
}

// newCallers makes the callers of some keys, by their ids.
func newCallers(keys []AccessKey, operations []string) (map[string]*caller, error) {
	if len(keys) == 0 {
		return nil, errors.New("no access key: nobody could call it")
	}
	callers := make(map[string]*caller, len(keys))
	for _, k := range keys {
		if err := k.check(operations); err != nil {
			return nil, err
		}
		if callers[k.ID] != nil {
			return nil, fmt.Errorf("access key id %q is there twice", k.ID)
		}
		c := &caller{key: k}
		if k.RequestsPerSecond > 0 {
			burst := float64(k.Burst)
			if k.Burst == 0 {
				burst = max(1, math.Floor(k.RequestsPerSecond))
			}
			c.bucket = &bucket{rate: k.RequestsPerSecond, burst: burst}
		}
		callers[k.ID] = c
	}
	return callers, nil
}

// throttle refuses a proven caller that calls too often.
func (c *caller) throttle(now time.Time) error {
	if c.bucket == nil {
		return nil
	}
	wait := c.bucket.take(now)
	if wait == 0 {
		return nil
	}
	refusal := awsjson.Errorf("ThrottlingException", "Rate exceeded: access key %s may make %v requests a second", c.key.ID, c.key.RequestsPerSecond)
	refusal.RetryAfter = wait
	return refusal
}

// authorize refuses a caller what it may not call.
func (c *caller) authorize(operation string) error {
	allowed := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, operation) })
	}
	why := ""
	switch {
	case c.key.ReadOnly && !allowed(readOperations()):
		why = "it is read-only"
	case len(c.key.Operations) > 0 && !allowed(c.key.Operations):
		why = "its operations are " + strings.Join(c.key.Operations, ", ")
	default:
		return nil
	}
	return awsjson.Errorf("AccessDeniedException", "Access key %s is not authorized to perform: %s:%s because %s", c.key.ID, service, operation, why)
}

// matches says whether a pattern means an operation. The pattern was checked.
func matches(pattern, operation string) bool {
	ok, err := path.Match(pattern, operation)
	return err == nil && ok
}

// bucket is a token bucket: a call takes a token, and tokens come back at the rate, up to the burst.
type bucket struct {
	rate, burst float64

	mu    sync.Mutex // guards what follows
	spent float64    // tokens that have not come back yet
	at    time.Time  // when spent was true
}

// take takes a token, or says how long it is until there is one. A call that has to wait takes nothing.
func (b *bucket) take(now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// A clock that goes back gives nothing back and costs nothing.
	spent := max(0, b.spent-max(0, now.Sub(b.at).Seconds())*b.rate)
	if over := spent + 1 - b.burst; over > 0 {
		return max(1, time.Duration(over/b.rate*float64(time.Second)))
	}
	b.spent, b.at = spent+1, now
	return 0
}

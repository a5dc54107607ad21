package s3

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = time.Second
	// slowest is the rate below which an attempt to send bytes counts as hung, 256 KiB/s.
	slowest = 256 * kib
)

// call describes a request for retries, metrics and errors.
type call struct {
	op, name string
	bytes    int64         // that travel or are copied at the far side; they lengthen the attempt's deadline
	budget   time.Duration // for retries; 0: the store's
}

// request does one S3 request, again and again while the store is out of reach, until the retry budget is used up. The
// budget counts from the first failure, so a long transfer does not eat it. do must not depend on what an attempt
// before it left behind: bodies are made anew from memory. Errors are those of package storage.
//
// The SDK's own retries are off: they are counted in attempts and share a token bucket, so that many uploads in the
// same short outage would make each other fail.
func request[O any](ctx context.Context, s *Store, c call, do func(context.Context) (O, error)) (O, error) {
	budget := c.budget
	if budget == 0 {
		budget = s.cfg.RetryBudget
	}
	var failing time.Time
	renewed := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		out, err := attempt(ctx, s.cfg.AttemptTimeout+time.Duration(c.bytes/slowest)*time.Second, do)
		s.metrics.requests.WithLabelValues(c.op, result(err)).Inc()
		if err == nil {
			return out, nil
		}
		if !renewed && ctx.Err() == nil && s.renew(err) {
			renewed = true
			continue
		}
		now := time.Now()
		if failing.IsZero() {
			failing = now
		}
		pause := backoff/2 + rand.N(backoff/2)
		if ctx.Err() != nil || !retryable(err) || now.Add(pause).Sub(failing) > budget {
			return out, failure(c.op, c.name, err)
		}
		s.cfg.Logger.DebugContext(ctx, "s3 request retried", "op", c.op, "name", c.name, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return out, failure(c.op, c.name, context.Cause(ctx))
		}
	}
}

// attempt does a request once, within a deadline of its own.
func attempt[O any](ctx context.Context, timeout time.Duration, do func(context.Context) (O, error)) (O, error) {
	actx, cancel := context.WithTimeoutCause(ctx, timeout, errAttemptTimeout)
	defer cancel()
	out, err := do(actx)
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	if actx.Err() != nil {
		return out, errAttemptTimeout
	}
	return out, err
}

func result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case retryable(err):
		return "unavailable"
	default:
		return "refused"
	}
}

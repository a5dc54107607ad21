package db

import (
	"context"
	"sync"
)

// Changed gives a channel that gets a value after any committed change of servers, users, accesses or host keys; changes
// that nobody has taken yet are one value. Changes that other nodes of a cluster made are told too, and now and then one that
// nobody made. The function ends the subscription.
func (d *DB) Changed() (<-chan struct{}, func()) { return d.changed.subscribe() }

// change does fn in a shared transaction, and tells the subscribers when it is durable.
func (d *DB) change(ctx context.Context, fn func(context.Context, Tx) error) error {
	if err := d.catalogue(ctx, fn); err != nil {
		return err
	}
	d.changed.send()
	return nil
}

// catalogue does fn in a shared transaction in which nobody else changes the catalogue.
func (d *DB) catalogue(ctx context.Context, fn func(context.Context, Tx) error) error {
	return d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		if err := tx.Catalogue(ctx); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

type broadcast struct {
	mu   sync.Mutex // guards subs
	subs map[chan struct{}]struct{}
}

func (b *broadcast) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		b.subs = map[chan struct{}]struct{}{}
	}
	b.subs[c] = struct{}{}
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, c)
	}
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.subs {
		select {
		case c <- struct{}{}:
		default: // one is waiting already
		}
	}
}

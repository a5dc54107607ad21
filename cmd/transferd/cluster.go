package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// errDeclaredDead ends a daemon that the others of its cluster have given up: it can write nothing any more, and what it
// had open is theirs. A new start makes it one of them again.
var errDeclaredDead = errors.New("the other nodes declared this one dead, since it was not seen for too long: it has to start anew")

// cluster brings what dead nodes left to its end, until ctx ends or this node itself is declared dead.
func (d *daemon) cluster(ctx context.Context) error {
	if !d.db.Clustered() {
		<-ctx.Done()
		return nil
	}
	var heirs sync.WaitGroup
	defer heirs.Wait()
	look := time.NewTicker(d.db.Beat())
	defer look.Stop()
	for {
		all, err := d.db.Inherit(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("dead nodes cannot be looked for: trying again", "error", err.Error())
		}
		for _, in := range all {
			if err := d.inherit(ctx, in, &heirs); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.db.Dead():
			return errDeclaredDead
		case <-look.C:
		}
	}
}

// inherit gives a dead node's uploads their verdicts, on a goroutine of heirs.
func (d *daemon) inherit(ctx context.Context, in db.Inheritance, heirs *sync.WaitGroup) error {
	if len(in.Uploads)+len(in.Deeds)+in.Jobs == 0 {
		d.log.Info("a node has left the cluster", "node", in.Node)
		return nil
	}
	d.log.Warn("a node is dead: its uploads and steps go on here", "node", in.Node, "uploads", len(in.Uploads), "deeds", len(in.Deeds), "steps", in.Jobs)
	cfg := d.recovering
	cfg.Unfinished = func(context.Context, string) ([]session.Upload, error) { return in.Uploads, nil }
	recovery, err := session.Recover(ctx, cfg)
	if err != nil {
		return fmt.Errorf("take over the uploads of node %s: %w", in.Node, err)
	}
	heirs.Go(func() { d.recoverDeeds(ctx, in.Deeds, recovery.Unsettled).Run(ctx) })
	heirs.Go(func() {
		ctx, done := context.WithCancel(ctx)
		defer done()
		go func() {
			select {
			case <-recovery.Settled():
				d.log.Info("the uploads of a dead node have their verdicts", "node", in.Node, "uploads", len(in.Uploads))
				done()
			case <-ctx.Done():
			}
		}()
		if err := recovery.Run(ctx); err != nil {
			d.log.Error("uploads of a dead node", "node", in.Node, "error", err.Error())
		}
	})
	return nil
}

// unsettled says whether a place awaits the verdict of a dead upload, of this node or of another one.
func (d *daemon) unsettled(at storage.Location) bool {
	if d.recovery.Unsettled(at) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	abandoned, err := d.db.Abandoned(ctx, at)
	if err != nil {
		d.log.Warn("no upload may begin: nobody knows whether a dead one awaits its verdict there", "path", at.Path(), "error", err.Error())
		return true
	}
	return abandoned
}

// mindNewerFiles keeps, in a cluster, the recovery of dead uploads from files that came after them. Between a node's death
// and its discovery a client may have sent its file again through another node: then the old bytes must not be put over
// the new ones. The dead upload is partial all the same.
func (d *daemon) mindNewerFiles() {
	if d.db.Clustered() {
		newer := &sync.Map{}
		d.recovering.Stores = heirStores{d.recovering.Stores, d.db, newer}
		d.recovering.Journal = heirJournal{d.recovering.Journal, d.db, newer}
	}
}

// heirJournal knows of the dead uploads that gave way to newer files.
type heirJournal struct {
	session.Journal
	db    *db.DB
	newer *sync.Map // ids of such uploads, from Resume to End
}

// End is part of session.Journal.
func (j heirJournal) End(ctx context.Context, u session.Upload, v session.Verdict) error {
	if _, gaveWay := j.newer.Load(u.ID); !gaveWay || v.Outcome != session.Partial {
		return j.Journal.End(ctx, u, v)
	}
	err := j.db.EndSuperseded(ctx, u, v)
	if err == nil {
		j.newer.Delete(u.ID)
	}
	return err
}

// heirStores are the stores for the uploads of dead nodes.
type heirStores struct {
	storage.Stores
	db    *db.DB
	newer *sync.Map
}

// As is what storage.Impersonator says: a dead upload goes on as its user.
func (s heirStores) As(ctx context.Context, id storage.Identity) (storage.Stores, error) {
	i, ok := s.Stores.(storage.Impersonator)
	if !ok {
		return nil, fmt.Errorf("the stores act for nobody else: %w", fs.ErrPermission)
	}
	stores, err := i.As(ctx, id)
	if err != nil {
		return nil, err
	}
	return heirStores{stores, s.db, s.newer}, nil
}

func (s heirStores) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	b, err := s.Stores.Backend(ctx, domain, store)
	if err != nil {
		return nil, err
	}
	return heirBackend{b, s, storage.Location{Domain: domain, Store: store}}, nil
}

type heirBackend struct {
	storage.Backend
	s  heirStores
	at storage.Location // without a name
}

// Resume is part of storage.Resumer. Where a newer file stands it throws away what the store has of the dead upload.
func (b heirBackend) Resume(ctx context.Context, name string, dead storage.DeadUpload) (storage.Object, error) {
	resumer, ok := b.Backend.(storage.Resumer)
	discarder, can := b.Backend.(storage.Discarder)
	if !ok || !can {
		return storage.Object{}, errors.ErrUnsupported
	}
	b.at.Name = name
	last, found, err := b.s.db.LastUpload(ctx, b.at)
	if err != nil {
		return storage.Object{}, err
	}
	if !found || last.Upload.ID == dead.ID || last.Verdict == nil || !last.Upload.Began.After(dead.Begun) || last.Verdict.Outcome == session.Refused {
		return resumer.Resume(ctx, name, dead)
	}
	size, err := discarder.Discard(ctx, name, dead)
	if errors.Is(err, fs.ErrExist) { // a node that hung has put its file there after all
		return resumer.Resume(ctx, name, dead)
	}
	if err != nil {
		return storage.Object{}, err
	}
	b.s.newer.Store(dead.ID, true)
	return storage.Object{Size: size}, nil
}

// listening keeps where this node serves which server.
func (d *daemon) listening(ctx context.Context, all []fleet.Listener) error {
	listeners := make([]db.Listener, 0, len(all))
	for _, l := range all {
		listeners = append(listeners, db.Listener(l))
	}
	return d.db.Listens(ctx, listeners)
}

package s3

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/transferd/transferd/storage"
)

// maxLent is how many sessions of a role have their credentials kept. One that is beyond it and still at work keeps its
// own; another login with its name borrows anew.
const maxLent = 1024

// Roles are the stores that roles stand for, by ARN, each an endpoint with credentials, and the one that every other
// role stands for.
type Roles struct {
	own   *Store
	roles map[string]*Store
}

// NewRoles makes the stores of roles. They share the memory budget, the limits and the metrics of own; a Config without
// credentials has own's. Close them before own.
func NewRoles(own *Store, roles map[string]Config) (*Roles, error) {
	r := &Roles{own: own, roles: make(map[string]*Store, len(roles))}
	for arn, cfg := range roles {
		cfg.Budget, cfg.Logger, cfg.Now, cfg.Wrap = own.cfg.Budget, own.cfg.Logger, own.cfg.Now, own.cfg.Wrap
		cfg.PartSize, cfg.Parallel, cfg.CopyLimit = own.cfg.PartSize, own.cfg.Parallel, own.cfg.CopyLimit
		cfg.RetryBudget, cfg.AttemptTimeout = own.cfg.RetryBudget, own.cfg.AttemptTimeout
		s, err := newStore(cfg, own.metrics, own.credentials)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("role %s: %w", arn, err), r.Close(context.Background()))
		}
		r.roles[arn] = s
	}
	return r, nil
}

// Backend implements storage.Stores, as the daemon itself.
func (r *Roles) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	return r.own.Backend(ctx, domain, store)
}

// As implements storage.Impersonator. A role that has no store of its own is that of the daemon.
func (r *Roles) As(ctx context.Context, id storage.Identity) (storage.Stores, error) {
	if s, ok := r.roles[id.Role]; ok {
		return s.As(ctx, id)
	}
	return r.own.As(ctx, id)
}

// Close closes the roles' stores, after their uploads have ended.
func (r *Roles) Close(ctx context.Context) error {
	var errs []error
	for _, s := range r.roles {
		errs = append(errs, s.Close(ctx))
	}
	return errors.Join(errs...)
}

// session is whom a role is lent to.
type session struct{ name, policy string }

// lent are the stores of the sessions of a role, the latest of them.
type lent struct {
	metrics *metrics

	mu    sync.Mutex
	order *list.List // of *loan, the latest used in front; guarded by mu, as is what follows
	loans map[session]*list.Element
}

type loan struct {
	to    session
	store *Store
}

func newLent(m *metrics) lent {
	return lent{metrics: m, order: list.New(), loans: make(map[session]*list.Element)}
}

// get finds the store of a session or makes it.
func (l *lent) get(to session, fresh func() *Store) *Store {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.loans[to]; ok {
		l.order.MoveToFront(e)
		return e.Value.(*loan).store
	}
	made := &loan{to: to, store: fresh()}
	l.loans[to] = l.order.PushFront(made)
	l.metrics.sessions.Inc()
	if l.order.Len() > maxLent {
		l.remove(l.order.Back())
	}
	return made.store
}

// drop forgets a session that has no credentials.
func (l *lent) drop(to session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.loans[to]; ok {
		l.remove(e)
	}
}

// remove is called with mu held.
func (l *lent) remove(e *list.Element) {
	l.order.Remove(e)
	delete(l.loans, e.Value.(*loan).to)
	l.metrics.sessions.Dec()
}

package db

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// A node is one process of a cluster. It is a row in nodes that says when it was seen last, by the database's clock, and
// a lock of a session that no second process can have under the same name. A node without its row is dead: it can write
// nothing any more, for every transaction holds the row, and whoever takes the row away waits for those under way. What it
// left (open uploads, running jobs, River's lease) goes to the node that took the row, in the same transaction.

const (
	defaultBeat = 2 * time.Second
	// suspectAfter beats without one, a node is dead if its session is gone too.
	suspectAfter = 3
	// deadAfter beats without one, a node is dead, whatever its session looks like.
	deadAfter = 8
)

// errDead is what the calls of a node get that others have declared dead: it was not seen for too long.
var errDead = errors.New("this node was declared dead by another one, which ends its uploads")

// dbClock is the time of the database, in milliseconds: the nodes' own clocks may differ.
const dbClock = `(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT`

// member is this process as a node.
type member struct {
	d       *DB
	p       *postgres
	name    string
	started int64 // tells the processes of one name apart
	beat    time.Duration

	end  context.CancelFunc
	gone chan struct{} // closed when the goroutine has ended
	dead chan struct{} // closed when others have declared us dead

	mu    sync.Mutex // guards since
	since time.Time  // beats have gone through without a break since then; zero while they do not
}

// join makes this process a node and keeps it one until leave.
func join(ctx context.Context, d *DB, p *postgres, beat time.Duration) (*member, error) {
	m := &member{d: d, p: p, name: d.node, beat: cmp.Or(beat, defaultBeat), gone: make(chan struct{}), dead: make(chan struct{})}
	conn, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = conn.QueryRow(ctx, `INSERT INTO nodes (name, started, seen) VALUES ($1, `+dbClock+`, `+dbClock+`)
		ON CONFLICT (name) DO UPDATE SET started = GREATEST(nodes.started + 1, excluded.started), seen = excluded.seen, doc = ''
		RETURNING started`, m.name).Scan(&m.started)
	if err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	m.alive(true)
	p.node.Store(m)
	loop, end := context.WithCancel(context.WithoutCancel(ctx))
	m.end = end
	go m.loop(loop, conn)
	return m, nil
}

// connect opens the node's session: it holds the name and listens. A process that was killed a moment ago may still seem
// to hold the name.
func (m *member) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, m.p.pool.Config().ConnConfig.Copy())
	if err != nil {
		return nil, explain(err)
	}
	patience := time.Now().Add(5 * time.Second)
	for {
		var mine bool
		if err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, advisory("node "+m.name)).Scan(&mine); err != nil {
			break
		}
		if mine {
			if _, err = conn.Exec(ctx, `LISTEN `+catalogueTopic); err == nil {
				return conn, nil
			}
			break
		}
		if time.Now().After(patience) {
			err = fmt.Errorf("node %s is in use by another transferd process", m.name)
			break
		}
		if err = pause(ctx, 100*time.Millisecond); err != nil {
			break
		}
	}
	return nil, errors.Join(explain(err), conn.Close(context.WithoutCancel(ctx)))
}

// loop beats and listens. After a lost connection it begins anew, and tells of changes that it may have missed.
func (m *member) loop(ctx context.Context, conn *pgx.Conn) {
	defer close(m.gone)
	for {
		err := m.listen(ctx, conn)
		m.alive(false)
		if closing := conn.Close(context.WithoutCancel(ctx)); closing != nil && err == nil {
			err = closing
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errDead) {
			m.d.log.Error(errDead.Error(), "node", m.name)
			close(m.dead)
			return
		}
		m.d.log.Warn("the node's connection to the database is lost: trying again", "node", m.name, "error", err.Error())
		for {
			if pause(ctx, m.beat/4) != nil {
				return
			}
			if conn, err = m.connect(ctx); err == nil {
				break
			}
			if ctx.Err() != nil {
				return
			}
		}
		m.d.log.Info("the node is connected to the database again", "node", m.name)
		m.d.changed.send()
	}
}

// listen returns at the first error; errDead if the row is gone.
func (m *member) listen(ctx context.Context, conn *pgx.Conn) error {
	for {
		tag, err := conn.Exec(ctx, `UPDATE nodes SET seen = `+dbClock+` WHERE name = $1 AND started = $2`, m.name, m.started)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errDead
		}
		m.alive(true)
		if err := m.hear(ctx, conn); err != nil {
			return err
		}
	}
}

// hear passes on what other nodes announce, for one beat.
func (m *member) hear(ctx context.Context, conn *pgx.Conn) error {
	beat, cancel := context.WithTimeout(ctx, m.beat)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(beat)
		if beat.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
			return nil
		}
		if err != nil {
			return err
		}
		if n.Payload != m.name {
			m.d.changed.send()
		}
	}
}

func (m *member) alive(is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !is:
		m.since = time.Time{}
	case m.since.IsZero():
		m.since = time.Now()
	}
}

// seasoned says whether our own beats have gone through for so many of them. When the database itself was away nobody was
// seen, and nobody must be called dead for it.
func (m *member) seasoned(beats int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.since.IsZero() && time.Since(m.since) >= time.Duration(beats)*m.beat
}

// hold keeps the node's row until the transaction ends.
func (m *member) hold(ctx context.Context, tx Tx) error {
	var is int
	err := tx.QueryRow(ctx, `SELECT 1 FROM nodes WHERE name = $1 AND started = $2 FOR KEY SHARE`, m.name, m.started).Scan(&is)
	if errors.Is(err, sql.ErrNoRows) {
		return errDead
	}
	return err
}

// leave ends the node. Its row says that it is gone, so that others need not wait: they find nothing, or what this
// process could not bring to its end.
func (m *member) leave() error {
	m.end()
	<-m.gone
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := m.p.pool.Exec(ctx, `UPDATE nodes SET seen = 0 WHERE name = $1 AND started = $2`, m.name, m.started)
	if err != nil {
		m.d.log.Warn("the other nodes could not be told that this one ends", "node", m.name, "error", err.Error())
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Dead is closed when other nodes have declared this one dead, because it was not seen for too long. It can write nothing
// any more, and should end; nil without a cluster.
func (d *DB) Dead() <-chan struct{} {
	if d.member == nil {
		return nil
	}
	return d.member.dead
}

// Clustered says whether other nodes may share the database.
func (d *DB) Clustered() bool { return d.member != nil }

// Beat is how often a node says that it lives, and how often it is worth to look for dead ones.
func (d *DB) Beat() time.Duration {
	if d.member == nil {
		return 0
	}
	return d.member.beat
}

// Inheritance is what a dead node left to this one.
type Inheritance struct {
	Node    string           // who died
	Uploads []session.Upload // begun and not ended; the journal has them under this node's name now
	Deeds   []session.Deed   // begun, and nobody told the end of them
	Jobs    int              // steps that ran, queued again
}

// Inherit takes over what dead nodes left: exactly one node gets each upload. Whoever gets it must bring it to its end;
// if it dies, the next one inherits. Without a cluster there is nothing.
func (d *DB) Inherit(ctx context.Context) ([]Inheritance, error) {
	m := d.member
	if m == nil {
		return nil, nil
	}
	suspects, err := m.suspects(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for dead nodes: %w", err)
	}
	var all []Inheritance
	for _, name := range suspects {
		in, dead, err := m.inherit(ctx, name)
		if err != nil {
			return all, fmt.Errorf("inherit from node %s: %w", name, err)
		}
		if dead {
			all = append(all, in)
		}
	}
	return all, nil
}

// unseen is the rule of who was not seen for so many beats ($2 milliseconds), or said that it goes.
const unseen = `name <> $1 AND (seen = 0 OR seen < ` + dbClock + ` - $2)`

func (m *member) suspects(ctx context.Context) (names []string, err error) {
	err = m.d.reader().Query(ctx, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		names = append(names, name)
		return err
	}, `SELECT name FROM nodes WHERE `+unseen+` ORDER BY name`, m.name, m.millis(suspectAfter))
	return names, err
}

func (m *member) millis(beats int) int64 { return int64(beats) * m.beat.Milliseconds() }

func (m *member) inherit(ctx context.Context, name string) (in Inheritance, dead bool, err error) {
	err = m.d.tx(ctx, "inherit", func(ctx context.Context, tx Tx) error {
		in, dead = Inheritance{Node: name}, false // this may run twice
		patience := m.millis(deadAfter)
		var free bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, advisory("node "+name)).Scan(&free); err != nil {
			return err
		}
		if free {
			patience = m.millis(suspectAfter)
		}
		if !m.seasoned(deadAfter) && !(free && m.seasoned(suspectAfter)) {
			patience = 1 << 60 // only who said so itself
		}
		n, err := tx.Exec(ctx, `DELETE FROM nodes WHERE name = $3 AND `+unseen, m.name, patience, name)
		if err != nil || n == 0 {
			return err
		}
		dead = true
		if in.Uploads, err = unfinished(ctx, tx, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE uploads SET node = $1 WHERE node = $2 AND ended = 0`, m.name, name); err != nil {
			return err
		}
		if in.Deeds, err = deeds(ctx, tx, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE deeds SET node = $1 WHERE node = $2`, m.name, name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM river_leader WHERE leader_id = $1`, name); err != nil {
			return err
		}
		in.Jobs, err = rescueIn(ctx, tx, func(row *rivertype.JobRow) bool { return attemptedBy(row) == name })
		return err
	})
	if err == nil && in.Jobs > 0 {
		m.d.base.ring()
	}
	return in, dead && err == nil, err
}

// attemptedBy is the node that fetched a job last.
func attemptedBy(row *rivertype.JobRow) string {
	if len(row.AttemptedBy) == 0 {
		return ""
	}
	return row.AttemptedBy[len(row.AttemptedBy)-1]
}

// orphaned says of a running job whether nobody works on it when this node starts: its own, of the process before it,
// and those of nodes that are no more.
func (d *DB) orphaned(ctx context.Context) (func(*rivertype.JobRow) bool, error) {
	if d.member == nil {
		return func(*rivertype.JobRow) bool { return true }, nil // the directory's lock proves it
	}
	others := map[string]bool{}
	err := d.reader().Query(ctx, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		others[name] = true
		return err
	}, `SELECT name FROM nodes WHERE name <> $1`, d.node)
	return func(row *rivertype.JobRow) bool { return !others[attemptedBy(row)] }, err
}

// mine narrows a rule about running jobs to those that this node fetched.
func (d *DB) mine(rule func(*rivertype.JobRow) bool) func(*rivertype.JobRow) bool {
	if d.member == nil {
		return rule
	}
	return func(row *rivertype.JobRow) bool { return attemptedBy(row) == d.node && rule(row) }
}

// Abandoned says whether a dead node's upload to this place awaits its verdict, or one of a node that lost its session just
// now. Until that has come nobody may upload there: the old bytes would be put over the new ones.
func (d *DB) Abandoned(ctx context.Context, at storage.Location) (bool, error) {
	m := d.member
	if m == nil {
		return false, nil
	}
	owners := map[string]bool{}
	found := false
	err := d.reader().Query(ctx, func(scan func(...any) error) error {
		var node, doc string
		if err := scan(&node, &doc); err != nil {
			return err
		}
		u, err := decodeUpload(doc)
		if err != nil || u.Location != at {
			return err
		}
		if u.Node != node {
			found = true // inherited
		} else if node != m.name {
			owners[node] = true
		}
		return nil
	}, `SELECT node, doc FROM uploads WHERE place = $1 AND ended = 0`, place(at))
	for owner := range owners {
		if err != nil || found {
			break
		}
		var holds int
		err = d.reader().QueryRow(ctx, `SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND ((classid::BIGINT << 32) | objid::BIGINT) = $1`, advisory("node "+owner)).Scan(&holds)
		found = holds == 0
	}
	return found, err
}

package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	modernc "modernc.org/sqlite"
)

// maxKept is how many statements a connection keeps. There are about a hundred, ours and River's.
const maxKept = 256

// keeping opens connections to SQLite that prepare a statement once: its preparation costs several times what the
// statement does, and both River's statements and ours are constant texts.
type keeping struct{ driver.Connector }

func newKeeping(uri string) (*keeping, error) {
	c, err := modernc.NewConnector(uri)
	if err != nil {
		return nil, err
	}
	return &keeping{c}, nil
}

// Connect is part of driver.Connector.
func (k *keeping) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	whole, ok := c.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no connection to SQLite", c), c.Close())
	}
	return &keptConn{sqliteConn: whole, kept: map[string]sqliteStmt{}}, nil
}

// lateKey marks the context of a transaction whose commit does not wait for the disk.
type lateKey struct{}

// sqliteConn is what database/sql uses of the driver's connections.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// sqliteStmt is what it uses of the driver's statements.
type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// keptConn is a connection that keeps its statements. One that is at work is not in kept, so that another use of the same
// text meanwhile prepares it anew.
type keptConn struct {
	sqliteConn
	kept map[string]sqliteStmt
	late bool // commits do not wait for the disk
	open bool // a transaction is
}

// BeginTx is part of driver.ConnBeginTx.
func (c *keptConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.setLate(ctx, ctx.Value(lateKey{}) != nil); err != nil {
		return nil, err
	}
	tx, err := c.sqliteConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	c.open = true
	return &keptTx{tx, c}, nil
}

// setLate says whether commits wait for the disk, as they do in the pools' own settings.
func (c *keptConn) setLate(ctx context.Context, late bool) error {
	if c.late == late || c.open {
		return nil
	}
	level := "FULL"
	if late {
		level = "NORMAL"
	}
	_, err := c.sqliteConn.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = "+level, nil)
	if err == nil {
		c.late = late
	}
	return err
}

// keptTx is a transaction that is open until it ends.
type keptTx struct {
	driver.Tx
	c *keptConn
}

// Commit is part of driver.Tx.
func (t *keptTx) Commit() error {
	t.c.open = false
	return t.Tx.Commit()
}

// Rollback is part of driver.Tx.
func (t *keptTx) Rollback() error {
	t.c.open = false
	return t.Tx.Rollback()
}

// ExecContext is part of driver.ExecerContext.
func (c *keptConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.setLate(ctx, false); err != nil { // outside a transaction
		return nil, err
	}
	if !repeatable(query) {
		return c.sqliteConn.ExecContext(ctx, query, args)
	}
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	result, err := s.ExecContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return result, c.keep(query, s)
}

// QueryContext is part of driver.QueryerContext.
func (c *keptConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.setLate(ctx, false); err != nil { // outside a transaction
		return nil, err
	}
	if !repeatable(query) {
		return c.sqliteConn.QueryContext(ctx, query, args)
	}
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &keptRows{rows, func() error { return c.keep(query, s) }, s.Close}, nil
}

// take gives a statement to the caller alone.
func (c *keptConn) take(ctx context.Context, query string) (sqliteStmt, error) {
	if s, ok := c.kept[query]; ok {
		delete(c.kept, query)
		return s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	whole, ok := s.(sqliteStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no statement of SQLite", s), s.Close())
	}
	return whole, nil
}

// keep takes a statement back, for the next use of the same text.
func (c *keptConn) keep(query string, s sqliteStmt) error {
	if _, there := c.kept[query]; there {
		return s.Close()
	}
	if len(c.kept) >= maxKept {
		for other, old := range c.kept { // any
			delete(c.kept, other)
			if err := old.Close(); err != nil {
				return errors.Join(err, s.Close())
			}
			break
		}
	}
	c.kept[query] = s
	return nil
}

// Close is part of driver.Conn. SQLite closes no file that a statement still belongs to.
func (c *keptConn) Close() error {
	var errs []error
	for _, s := range c.kept {
		errs = append(errs, s.Close())
	}
	clear(c.kept)
	return errors.Join(append(errs, c.sqliteConn.Close())...)
}

// keptRows give their statement back when they are read.
type keptRows struct {
	driver.Rows
	keep, drop func() error
}

// Close is part of driver.Rows.
func (r *keptRows) Close() error {
	if err := r.Rows.Close(); err != nil {
		return errors.Join(err, r.drop())
	}
	return r.keep()
}

// repeatable says whether a text may be prepared once and run again. Much of a PRAGMA happens while it is prepared
// (https://sqlite.org/pragma.html), and of the other statements each is run once.
func repeatable(query string) bool {
	for {
		query = strings.TrimLeft(query, " \t\r\n")
		comment, ok := strings.CutPrefix(query, "--")
		if !ok {
			break
		}
		_, query, _ = strings.Cut(comment, "\n")
	}
	for _, verb := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} {
		if len(query) >= len(verb) && strings.EqualFold(query[:len(verb)], verb) {
			return true
		}
	}
	return false
}

package db

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// TestKeptStatements has one connection run the same texts again and again, in all the ways in which a kept statement
// could be the wrong one.
func TestKeptStatements(t *testing.T) {
	t.Parallel()
	var undo []func() error
	pool, err := openPool(t.Context(), 1, "file:"+filepath.Join(t.TempDir(), "x.db"), &undo)
	must(t, err)
	t.Cleanup(func() {
		for _, f := range slices.Backward(undo) {
			must(t, f())
		}
	})
	do := func(query string, args ...any) {
		t.Helper()
		if _, err := pool.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	one := func(query string, args ...any) (n int) {
		t.Helper()
		must(t, pool.QueryRowContext(t.Context(), query, args...).Scan(&n))
		return n
	}
	do(`CREATE TABLE x (n INT PRIMARY KEY NOT NULL)`)
	const insert, all = `INSERT INTO x (n) VALUES ($1)`, "-- a comment, as River's texts have one\nSELECT n FROM x ORDER BY n"
	for i := range 5 {
		do(insert, i)
	}
	for range 2 { // a failure leaves nothing behind
		if _, err := pool.ExecContext(t.Context(), insert, 1); err == nil {
			t.Fatal("a second 1")
		}
		if n := one(`SELECT COUNT(*) FROM x WHERE n >= $1`, 0); n != 5 {
			t.Fatalf("%d rows", n)
		}
	}
	nested(t, pool, all)

	do(`ALTER TABLE x RENAME COLUMN n TO m`)
	do(`ALTER TABLE x ADD COLUMN n INT NOT NULL DEFAULT 7`)
	if n := one(all); n != 7 {
		t.Errorf("after a change of the table: %d", n)
	}
	for i, level := range []int{1, 2, 1, 2} { // that happens while it is prepared
		do(fmt.Sprint("PRAGMA synchronous = ", level))
		if n := one(`PRAGMA synchronous`); n != level {
			t.Errorf("pragma %d: %d, want %d", i, n, level)
		}
	}
	for round := range 2 { // more texts than are kept
		for i := range maxKept + 10 {
			if n := one(fmt.Sprintf(`SELECT %d + $1`, i), round); n != i+round {
				t.Fatalf("%d + %d = %d", i, round, n)
			}
		}
	}
}

// nested runs a text while its rows are being read, and leaves rows unread.
func nested(t *testing.T, pool *sql.DB, all string) {
	t.Helper()
	tx, err := pool.BeginTx(t.Context(), nil)
	must(t, err)
	defer func() { must(t, tx.Rollback()) }()
	outer, err := tx.QueryContext(t.Context(), all)
	must(t, err)
	seen := 0
	for outer.Next() {
		var n, first int
		must(t, outer.Scan(&n))
		must(t, tx.QueryRowContext(t.Context(), all).Scan(&first)) // of five rows, the first
		if n != seen || first != 0 {
			t.Errorf("row %d is %d, the first is %d", seen, n, first)
		}
		seen++
	}
	must(t, outer.Err())
	must(t, outer.Close())
	if seen != 5 {
		t.Errorf("%d rows", seen)
	}
}

package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pressly/goose/v3"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// place is where an upload goes, as the index knows it: eight bytes of a hash, for names may be longer than an index
// takes, and every row costs. Two locations may share a place; readers compare the location itself.
func place(at storage.Location) int64 {
	h := sha256.New()
	for _, part := range []string{at.Domain, at.Store, at.Name} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// LastUpload is the latest upload to a location, ended or not; false if the journal has none.
func (d *DB) LastUpload(ctx context.Context, at storage.Location) (last UploadRecord, found bool, err error) {
	enough := errors.New("enough")
	err = eachUpload(ctx, d.reader(), func(r UploadRecord) error {
		if r.Upload.Location != at {
			return nil // another location of the same place
		}
		last, found = r, true
		return enough
	}, `WHERE place = $1 ORDER BY began DESC, id DESC`, place(at))
	if errors.Is(err, enough) {
		err = nil
	}
	return last, found, err
}

// placesMigration fills in the places of uploads that an older version began. SQL alone cannot hash, and the documents
// are read the same way on every database.
func placesMigration() *goose.Migration {
	return goose.NewGoMigration(4, &goose.GoFunc{RunTx: fillPlaces}, nil)
}

func fillPlaces(ctx context.Context, tx *sql.Tx) error {
	const page = 1000 // rows in memory
	for after := ""; ; {
		rows := map[string]int64{}
		last := after
		err := querier{tx}.Query(ctx, func(scan func(...any) error) error {
			var u session.Upload
			var doc string
			if err := scan(&last, &doc); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(doc), &u); err != nil {
				return fmt.Errorf("upload %s: %w", last, err)
			}
			rows[last] = place(u.Location)
			return nil
		}, `SELECT id, doc FROM uploads WHERE id > $1 ORDER BY id LIMIT $2`, after, page)
		if err != nil {
			return err
		}
		for id, at := range rows {
			if _, err := tx.ExecContext(ctx, `UPDATE uploads SET place = $1 WHERE id = $2`, at, id); err != nil {
				return err
			}
		}
		if len(rows) < page {
			return nil
		}
		after = last
	}
}

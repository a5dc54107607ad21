package db

import (
	"context"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// HostKeys lists a server's host keys with their private parts, oldest first: the oldest of a type is the active one.
func (d *DB) HostKeys(ctx context.Context, id server.ID) ([]hostkeys.Key, error) {
	if err := requireServer(ctx, d.reader(), id); err != nil {
		return nil, err
	}
	return documents[hostkeys.Key](ctx, d.reader(),
		`SELECT doc FROM host_keys WHERE server_id = $1 ORDER BY imported, id`, id)
}

func insertHostKey(ctx context.Context, tx Tx, id server.ID, k hostkeys.Key) error {
	doc, err := encode(k)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `INSERT INTO host_keys (server_id, id, imported, doc) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`, id, k.HostKeyId, millis(k.DateImported), doc)
	if err == nil && n == 0 {
		err = &server.ExistsError{ResourceType: "HostKey", Resource: k.HostKeyId}
	}
	return err
}

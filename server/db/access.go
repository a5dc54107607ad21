package db

import (
	"context"

	"github.com/transferd/transferd/server"
)

// CreateAccess adds a directory's group to a server.
func (d *DB) CreateAccess(ctx context.Context, id server.ID, a server.Access) error {
	doc, err := encode(a)
	if err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO accesses (server_id, external_id, rev, doc) VALUES ($1, $2, 1, $3)
			ON CONFLICT DO NOTHING`, id, a.ExternalId, doc)
		if err != nil {
			return err
		}
		if n == 0 {
			return &server.ExistsError{ResourceType: "Access", Resource: a.ExternalId}
		}
		return quota(ctx, tx, "Access", d.limits.AccessesPerServer,
			`SELECT COUNT(*) FROM accesses WHERE server_id = $1`, id)
	})
}

// Access reads one access of a server.
func (d *DB) Access(ctx context.Context, id server.ID, externalID string) (server.Access, error) {
	q := d.reader()
	found, err := documents[server.Access](ctx, q, `SELECT doc FROM accesses WHERE server_id = $1 AND external_id = $2`,
		id, externalID)
	if err != nil {
		return server.Access{}, err
	}
	if len(found) == 0 {
		if err := requireServer(ctx, q, id); err != nil {
			return server.Access{}, err
		}
		return server.Access{}, noAccess(externalID)
	}
	return found[0], nil
}

// Accesses lists a server's accesses by external id. No limit in the page means all.
func (d *DB) Accesses(ctx context.Context, id server.ID, p server.Page) ([]server.Access, error) {
	if err := requireServer(ctx, d.reader(), id); err != nil {
		return nil, err
	}
	return documents[server.Access](ctx, d.reader(), `SELECT doc FROM accesses WHERE server_id = $1 AND external_id > $2
		ORDER BY external_id LIMIT $3`, id, p.After, limit(p.Limit))
}

// UpdateAccess changes an access in one transaction; no other change gets between. An error of change aborts it and
// comes back as it is. change must not use the database.
func (d *DB) UpdateAccess(ctx context.Context, id server.ID, externalID string, change func(*server.Access) error) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		r := row{"accesses", "server_id = $1 AND external_id = $2", []any{id, externalID}}
		_, err := revise(ctx, tx, r, noAccess(externalID), func(a *server.Access) error {
			err := change(a)
			a.ExternalId = externalID
			return err
		})
		return err
	})
}

// DeleteAccess removes an access from a server.
func (d *DB) DeleteAccess(ctx context.Context, id server.ID, externalID string) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM accesses WHERE server_id = $1 AND external_id = $2`, id, externalID)
		if err == nil && n == 0 {
			err = noAccess(externalID)
		}
		return err
	})
}

func noAccess(externalID string) error {
	return &server.NotFoundError{ResourceType: "Access", Resource: externalID}
}

package db

import (
	"context"

	"github.com/transferd/transferd/server"
)

// CreateUser adds a user to a server.
func (d *DB) CreateUser(ctx context.Context, id server.ID, u server.User) error {
	doc, err := encode(u)
	if err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := countUser(ctx, tx, id, +1); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO users (server_id, name, rev, doc) VALUES ($1, $2, 1, $3) ON CONFLICT DO NOTHING`,
			id, u.UserName, doc)
		if err != nil {
			return err
		}
		if n == 0 {
			return &server.ExistsError{ResourceType: "User", Resource: u.UserName}
		}
		return quota(ctx, tx, "User", d.limits.UsersPerServer, `SELECT user_count FROM servers WHERE id = $1`, id)
	})
}

// User reads one user of a server.
func (d *DB) User(ctx context.Context, id server.ID, name string) (server.User, error) {
	q := d.reader()
	found, err := documents[server.User](ctx, q, `SELECT doc FROM users WHERE server_id = $1 AND name = $2`, id, name)
	if err != nil {
		return server.User{}, err
	}
	if len(found) == 0 {
		if err := requireServer(ctx, q, id); err != nil {
			return server.User{}, err
		}
		return server.User{}, noUser(name)
	}
	return found[0], nil
}

// Users lists a server's users by name. No limit in the page means all.
func (d *DB) Users(ctx context.Context, id server.ID, p server.Page) ([]server.User, error) {
	if err := requireServer(ctx, d.reader(), id); err != nil {
		return nil, err
	}
	return documents[server.User](ctx, d.reader(),
		`SELECT doc FROM users WHERE server_id = $1 AND name > $2 ORDER BY name LIMIT $3`, id, p.After, limit(p.Limit))
}

// UpdateUser changes a user in one transaction; no other change gets between. An error of change aborts it and comes
// back as it is. change must not use the database.
func (d *DB) UpdateUser(ctx context.Context, id server.ID, name string, change func(*server.User) error) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		r := row{"users", "server_id = $1 AND name = $2", []any{id, name}}
		_, err := revise(ctx, tx, r, noUser(name), func(u *server.User) error {
			err := change(u)
			u.UserName = name
			return err
		})
		return err
	})
}

// DeleteUser removes a user from a server.
func (d *DB) DeleteUser(ctx context.Context, id server.ID, name string) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := countUser(ctx, tx, id, -1); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM users WHERE server_id = $1 AND name = $2`, id, name)
		if err == nil && n == 0 {
			err = noUser(name)
		}
		return err
	})
}

// countUser keeps the number of a server's users beside it. An error after it undoes it with the rest.
func countUser(ctx context.Context, tx Tx, id server.ID, by int) error {
	n, err := tx.Exec(ctx, `UPDATE servers SET user_count = user_count + $1 WHERE id = $2`, by, id)
	if err == nil && n == 0 {
		err = noServer(id)
	}
	return err
}

func noUser(name string) error { return &server.NotFoundError{ResourceType: "User", Resource: name} }

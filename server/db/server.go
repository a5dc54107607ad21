package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// CreateServer adds a server with its host keys. A workflow that it refers to must exist.
func (d *DB) CreateServer(ctx context.Context, s server.Server, keys []hostkeys.Key) error {
	s.UserCount = 0 // has a column of its own
	if len(keys) > 0 {
		s.HostKeyFingerprint = shownFingerprint(keys)
	}
	doc, err := encode(s)
	if err != nil {
		return err
	}
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `INSERT INTO servers (id, rev, doc) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING`, s.ServerId, doc)
		if err != nil {
			return err
		}
		if n == 0 {
			return &server.ExistsError{ResourceType: "Server", Resource: string(s.ServerId)}
		}
		for _, k := range keys {
			if err := insertHostKey(ctx, tx, s.ServerId, k); err != nil {
				return err
			}
		}
		if err := quota(ctx, tx, "Server", d.limits.Servers, `SELECT COUNT(*) FROM servers`); err != nil {
			return err
		}
		return attach(ctx, tx, s)
	})
}

const selectServers = `SELECT doc, user_count FROM servers`

// Server reads one server, with its number of users.
func (d *DB) Server(ctx context.Context, id server.ID) (server.Server, error) {
	s, err := scanServer(d.reader().QueryRow(ctx, selectServers+` WHERE id = $1`, id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return s, noServer(id)
	}
	return s, err
}

// Servers lists servers by id, with their numbers of users. No limit in the page means all.
func (d *DB) Servers(ctx context.Context, p server.Page) ([]server.Server, error) {
	var all []server.Server
	err := d.reader().Query(ctx, func(scan func(...any) error) error {
		s, err := scanServer(scan)
		all = append(all, s)
		return err
	}, selectServers+` WHERE id > $1 ORDER BY id LIMIT $2`, p.After, limit(p.Limit))
	return all, err
}

// UpdateServer changes a server in one transaction; no other change gets between. An error of change aborts it and comes
// back as it is. change must not use the database. The fingerprint follows the host keys and cannot be changed here.
func (d *DB) UpdateServer(ctx context.Context, id server.ID, change func(*server.Server) error) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		s, err := revise(ctx, tx, serverRow(id), noServer(id), func(s *server.Server) error {
			shown := s.HostKeyFingerprint
			err := change(s)
			s.ServerId, s.HostKeyFingerprint = id, shown
			s.UserCount = 0 // has a column of its own
			return err
		})
		if err != nil {
			return err
		}
		return attach(ctx, tx, s)
	})
}

// DeleteServer removes a server with its users, accesses and host keys. What it received stays in the journal; its
// executions end, and stay readable.
func (d *DB) DeleteServer(ctx context.Context, id server.ID) error {
	var ended []workflow.Execution
	err := d.change(ctx, func(ctx context.Context, tx Tx) error {
		for _, table := range []string{"attachments", "host_keys", "users", "accesses"} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE server_id = $1`, id); err != nil {
				return err
			}
		}
		n, err := tx.Exec(ctx, `DELETE FROM servers WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = noServer(id)
		}
		if err != nil {
			return err
		}
		ended, err = cancel(ctx, tx, id, d.now())
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range ended {
		d.ended(e.Trigger, workflow.Exception)
	}
	return nil
}

// attach writes the rows that say which workflow a server runs when.
func attach(ctx context.Context, tx Tx, s server.Server) error {
	if _, err := tx.Exec(ctx, `DELETE FROM attachments WHERE server_id = $1`, s.ServerId); err != nil {
		return err
	}
	if s.WorkflowDetails == nil {
		return nil
	}
	one := func(event workflow.Trigger, details []server.WorkflowDetail) error {
		if len(details) == 0 {
			return nil
		}
		if len(details) > 1 { // the API's model allows one
			return fmt.Errorf("more than one workflow for %s", event)
		}
		n, err := tx.Exec(ctx, `INSERT INTO attachments (server_id, event, workflow_id, role)
			SELECT $1, $2, id, $3 FROM workflows WHERE id = $4`,
			s.ServerId, event, details[0].ExecutionRole, details[0].WorkflowId)
		if err == nil && n == 0 {
			err = noWorkflow(workflow.ID(details[0].WorkflowId))
		}
		return err
	}
	if err := one(workflow.OnUpload, s.WorkflowDetails.OnUpload); err != nil {
		return err
	}
	return one(workflow.OnPartialUpload, s.WorkflowDetails.OnPartialUpload)
}

func serverRow(id server.ID) row { return row{"servers", "id = $1", []any{id}} }

func scanServer(scan func(...any) error) (server.Server, error) {
	var s server.Server
	var doc string
	var users int
	if err := scan(&doc, &users); err != nil {
		return s, err
	}
	err := json.Unmarshal([]byte(doc), &s)
	s.UserCount = users
	return s, err
}

// requireServer is the answer for things of a server that may not exist.
func requireServer(ctx context.Context, q Querier, id server.ID) error {
	var found int
	err := q.QueryRow(ctx, `SELECT 1 FROM servers WHERE id = $1`, id).Scan(&found)
	if errors.Is(err, sql.ErrNoRows) {
		return noServer(id)
	}
	return err
}

func noServer(id server.ID) error {
	return &server.NotFoundError{ResourceType: "Server", Resource: string(id)}
}

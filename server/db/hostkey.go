package db

import (
	"context"
	"slices"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// HostKeys lists a server's host keys with their private parts, oldest first: the oldest of a type is the active one.
func (d *DB) HostKeys(ctx context.Context, id server.ID) ([]hostkeys.Key, error) {
	if err := requireServer(ctx, d.reader(), id); err != nil {
		return nil, err
	}
	return readHostKeys(ctx, d.reader(), id)
}

// AddHostKey gives a server one key more. The same key twice is an ExistsError, which names the one that is there.
func (d *DB) AddHostKey(ctx context.Context, id server.ID, k hostkeys.Key) error {
	return d.changeHostKeys(ctx, id, func(ctx context.Context, tx Tx, keys []hostkeys.Key) error {
		same := slices.IndexFunc(keys, func(there hostkeys.Key) bool { return there.Fingerprint == k.Fingerprint })
		if same >= 0 {
			return &server.ExistsError{ResourceType: "HostKey", Resource: keys[same].HostKeyId}
		}
		return insertHostKey(ctx, tx, id, k)
	})
}

// UpdateHostKey changes what is said about a host key, its description and tags, in one transaction; no other change
// gets between. The key itself stays what it is. An error of change aborts it and comes back as it is. change must not
// use the database.
func (d *DB) UpdateHostKey(ctx context.Context, id server.ID, key string, change func(*hostkeys.Key) error) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		r := row{"host_keys", "server_id = $1 AND id = $2", []any{id, key}}
		_, err := revise(ctx, tx, r, noHostKey(key), func(k *hostkeys.Key) error {
			was := *k
			was.PEM = slices.Clone(k.PEM)
			err := change(k)
			was.Description, was.Tags = k.Description, k.Tags
			*k = was
			return err
		})
		return err
	})
}

// DeleteHostKey takes a host key from a server. The last one is a LastKeyError: no client could connect any more.
func (d *DB) DeleteHostKey(ctx context.Context, id server.ID, key string) error {
	return d.changeHostKeys(ctx, id, func(ctx context.Context, tx Tx, keys []hostkeys.Key) error {
		if !slices.ContainsFunc(keys, func(k hostkeys.Key) bool { return k.HostKeyId == key }) {
			return noHostKey(key)
		}
		if len(keys) == 1 {
			return &server.LastKeyError{Server: id, HostKey: key}
		}
		_, err := tx.Exec(ctx, `DELETE FROM host_keys WHERE server_id = $1 AND id = $2`, id, key)
		return err
	})
}

// changeHostKeys changes which keys a server has; fn gets those that it had. The server's document, and with it its
// revision, is written each time, also where the fingerprint stays: so two changes of one server's keys never pass each
// other unseen.
func (d *DB) changeHostKeys(ctx context.Context, id server.ID,
	fn func(ctx context.Context, tx Tx, keys []hostkeys.Key) error) error {
	return d.change(ctx, func(ctx context.Context, tx Tx) error {
		if err := requireServer(ctx, tx, id); err != nil {
			return err
		}
		keys, err := readHostKeys(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := fn(ctx, tx, keys); err != nil {
			return err
		}
		if keys, err = readHostKeys(ctx, tx, id); err != nil {
			return err
		}
		_, err = revise(ctx, tx, serverRow(id), noServer(id), func(s *server.Server) error {
			s.HostKeyFingerprint = shownFingerprint(keys)
			return nil
		})
		return err
	})
}

// shownFingerprint is what DescribeServer shows of a server's keys: the oldest active one's fingerprint. Keys of one
// moment, as a new server gets them, go in the order in which clients should prefer them.
func shownFingerprint(keys []hostkeys.Key) string {
	active := hostkeys.Active(keys)
	if len(active) == 0 {
		return ""
	}
	oldest := slices.MinFunc(active, func(a, b hostkeys.Key) int { return a.DateImported.Compare(b.DateImported) })
	return oldest.Fingerprint
}

func readHostKeys(ctx context.Context, q Querier, id server.ID) ([]hostkeys.Key, error) {
	return documents[hostkeys.Key](ctx, q, `SELECT doc FROM host_keys WHERE server_id = $1 ORDER BY imported, id`, id)
}

func insertHostKey(ctx context.Context, tx Tx, id server.ID, k hostkeys.Key) error {
	doc, err := encode(k)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `INSERT INTO host_keys (server_id, id, imported, rev, doc) VALUES ($1, $2, $3, 1, $4)
		ON CONFLICT DO NOTHING`, id, k.HostKeyId, millis(k.DateImported), doc)
	if err == nil && n == 0 {
		err = &server.ExistsError{ResourceType: "HostKey", Resource: k.HostKeyId}
	}
	return err
}

func noHostKey(key string) error {
	return &server.NotFoundError{ResourceType: "HostKey", Resource: key}
}

package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/transferd/transferd/server"
)

// Listener is where a node serves a server.
type Listener struct {
	Server  server.ID
	Door    string // sftp or ftp
	Address string
}

// NodeState is what is known of a node.
type NodeState string

// The states.
const (
	NodeAlive   NodeState = "alive"
	NodeMissing NodeState = "missing" // not seen for longer than it should be; soon another node declares it dead
	NodeLeft    NodeState = "left"    // it said that it ends
)

// Node is a process of the cluster, as its row has it. Those that were declared dead have none.
type Node struct {
	Name      string
	State     NodeState
	Unseen    time.Duration // since its last sign of life, by the database's clock
	Listeners []Listener
}

// Listens keeps where this node listens, for the others to know.
func (d *DB) Listens(ctx context.Context, all []Listener) error {
	d.listeners.Store(&all)
	if d.member == nil {
		return nil
	}
	doc, err := encode(all)
	if err == nil {
		err = d.tx(ctx, "node", func(ctx context.Context, tx Tx) error {
			_, err := tx.Exec(ctx, `UPDATE nodes SET doc = $1 WHERE name = $2 AND started = $3`, doc, d.member.name, d.member.started)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keep where the node listens: %w", err)
	}
	return nil
}

// Nodes lists the processes that share the database; without a cluster this one alone.
func (d *DB) Nodes(ctx context.Context) ([]Node, error) {
	if d.member == nil {
		n := Node{Name: d.node, State: NodeAlive}
		if all := d.listeners.Load(); all != nil {
			n.Listeners = *all
		}
		return []Node{n}, nil
	}
	var nodes []Node
	err := d.reader().Query(ctx, func(scan func(...any) error) error {
		var n Node
		var doc string
		var seen, unseen int64
		if err := scan(&n.Name, &seen, &unseen, &doc); err != nil {
			return err
		}
		n.State, n.Unseen = NodeAlive, time.Duration(unseen)*time.Millisecond
		switch {
		case seen == 0:
			n.State, n.Unseen = NodeLeft, 0
		case unseen > d.member.millis(suspectAfter):
			n.State = NodeMissing
		}
		nodes = append(nodes, n)
		if doc == "" {
			return nil
		}
		return json.Unmarshal([]byte(doc), &nodes[len(nodes)-1].Listeners)
	}, `SELECT name, seen, GREATEST(0, `+dbClock+` - seen), doc FROM nodes ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return nodes, nil
}

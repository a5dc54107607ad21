package api_test

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// catalogue keeps everything in memory as JSON, as the real one does, so that nobody shares memory with it. It calls
// every change function twice: they must be pure. err, if set, is the answer to everything: the far side's failure.
type catalogue struct {
	mu         sync.Mutex
	err        error
	servers    map[server.ID][]byte
	keys       map[server.ID][]hostkeys.Key
	users      map[server.ID]map[string][]byte
	accesses   map[server.ID]map[string][]byte
	workflows  map[workflow.ID][]byte
	executions map[workflow.ExecutionID]workflow.Execution
}

func newCatalogue() *catalogue {
	return &catalogue{
		servers: map[server.ID][]byte{}, keys: map[server.ID][]hostkeys.Key{}, users: map[server.ID]map[string][]byte{},
		accesses:  map[server.ID]map[string][]byte{},
		workflows: map[workflow.ID][]byte{}, executions: map[workflow.ExecutionID]workflow.Execution{},
	}
}

// fail makes everything fail from now on.
func (c *catalogue) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *catalogue) count() (servers, workflows int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.servers), len(c.workflows)
}

func (c *catalogue) keyCount(id server.ID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.keys[id])
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func decode[T any](b []byte) T {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return v
}

func missing(kind, resource string) error {
	return &server.NotFoundError{ResourceType: kind, Resource: resource}
}

// rewrite is a read-modify-write that had to be tried twice.
func rewrite[T any](doc []byte, change func(*T) error) ([]byte, error) {
	lost := decode[T](doc)
	if err := change(&lost); err != nil {
		return nil, err
	}
	v := decode[T](doc)
	if err := change(&v); err != nil {
		return nil, err
	}
	return encode(v), nil
}

func pageOf[K cmp.Ordered, T any](docs map[K][]byte, p server.Page) []T {
	var out []T
	for _, k := range slices.Sorted(maps.Keys(docs)) {
		var after K
		if s, ok := any(&after).(*server.ID); ok {
			*s = server.ID(p.After)
		} else if s, ok := any(&after).(*workflow.ID); ok {
			*s = workflow.ID(p.After)
		} else {
			*any(&after).(*string) = p.After
		}
		if k > after && len(out) < p.Limit {
			out = append(out, decode[T](docs[k]))
		}
	}
	return out
}

func (c *catalogue) attached(s server.Server) []server.WorkflowDetail {
	if s.WorkflowDetails == nil {
		return nil
	}
	return slices.Concat(s.WorkflowDetails.OnUpload, s.WorkflowDetails.OnPartialUpload)
}

func (c *catalogue) checkAttached(s server.Server) error {
	for _, d := range c.attached(s) {
		if c.workflows[workflow.ID(d.WorkflowId)] == nil {
			return missing("Workflow", d.WorkflowId)
		}
	}
	return nil
}

func (c *catalogue) CreateServer(_ context.Context, s server.Server, keys []hostkeys.Key) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if err := c.checkAttached(s); err != nil {
		return err
	}
	c.servers[s.ServerId], c.keys[s.ServerId] = encode(s), keys
	c.users[s.ServerId], c.accesses[s.ServerId] = map[string][]byte{}, map[string][]byte{}
	return nil
}

func (c *catalogue) Server(_ context.Context, id server.ID) (server.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return server.Server{}, c.err
	}
	if c.servers[id] == nil {
		return server.Server{}, missing("Server", string(id))
	}
	s := decode[server.Server](c.servers[id])
	s.UserCount = len(c.users[id])
	return s, nil
}

func (c *catalogue) Servers(_ context.Context, p server.Page) ([]server.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return pageOf[server.ID, server.Server](c.servers, p), c.err
}

func (c *catalogue) UpdateServer(_ context.Context, id server.ID, change func(*server.Server) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers[id] == nil {
		return missing("Server", string(id))
	}
	doc, err := rewrite(c.servers[id], change)
	if err == nil {
		err = c.checkAttached(decode[server.Server](doc))
	}
	if err == nil {
		c.servers[id] = doc
	}
	return err
}

func (c *catalogue) DeleteServer(_ context.Context, id server.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers[id] == nil {
		return missing("Server", string(id))
	}
	delete(c.servers, id)
	delete(c.users, id)
	delete(c.accesses, id)
	delete(c.keys, id)
	return nil
}

func (c *catalogue) CreateUser(_ context.Context, id server.ID, u server.User) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.users[id] == nil:
		return missing("Server", string(id))
	case c.users[id][u.UserName] != nil:
		return &server.ExistsError{ResourceType: "User", Resource: u.UserName}
	}
	c.users[id][u.UserName] = encode(u)
	return nil
}

func (c *catalogue) User(_ context.Context, id server.ID, name string) (server.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[id][name] == nil {
		return server.User{}, missing("User", name)
	}
	return decode[server.User](c.users[id][name]), nil
}

func (c *catalogue) Users(_ context.Context, id server.ID, p server.Page) ([]server.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[id] == nil {
		return nil, missing("Server", string(id))
	}
	return pageOf[string, server.User](c.users[id], p), c.err
}

func (c *catalogue) UpdateUser(_ context.Context, id server.ID, name string, change func(*server.User) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[id][name] == nil {
		return missing("User", name)
	}
	doc, err := rewrite(c.users[id][name], change)
	if err == nil {
		c.users[id][name] = doc
	}
	return err
}

func (c *catalogue) DeleteUser(_ context.Context, id server.ID, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users[id][name] == nil {
		return missing("User", name)
	}
	delete(c.users[id], name)
	return nil
}

func (c *catalogue) CreateWorkflow(_ context.Context, w workflow.Workflow) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workflows[w.WorkflowId] = encode(w)
	return nil
}

func (c *catalogue) Workflow(_ context.Context, id workflow.ID) (workflow.Workflow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workflows[id] == nil {
		return workflow.Workflow{}, missing("Workflow", string(id))
	}
	return decode[workflow.Workflow](c.workflows[id]), nil
}

func (c *catalogue) Workflows(_ context.Context, p server.Page) ([]workflow.Workflow, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return pageOf[workflow.ID, workflow.Workflow](c.workflows, p), c.err
}

func (c *catalogue) UpdateWorkflow(_ context.Context, id workflow.ID, change func(*workflow.Workflow) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workflows[id] == nil {
		return missing("Workflow", string(id))
	}
	doc, err := rewrite(c.workflows[id], change)
	if err == nil {
		c.workflows[id] = doc
	}
	return err
}

func (c *catalogue) DeleteWorkflow(_ context.Context, id workflow.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workflows[id] == nil {
		return missing("Workflow", string(id))
	}
	for by, doc := range c.servers {
		for _, d := range c.attached(decode[server.Server](doc)) {
			if d.WorkflowId == string(id) {
				return &server.InUseError{ResourceType: "Workflow", Resource: string(id), By: string(by)}
			}
		}
	}
	delete(c.workflows, id)
	return nil
}

func (c *catalogue) Execution(_ context.Context, id workflow.ExecutionID) (workflow.Execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.executions[id]
	if !ok {
		return e, missing("Execution", string(id))
	}
	return e, nil
}

// Executions are listed newest first.
func (c *catalogue) Executions(_ context.Context, w workflow.ID, p server.Page) ([]workflow.Execution, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.SortedFunc(maps.Values(c.executions), func(a, b workflow.Execution) int {
		return cmp.Or(b.Began.Compare(a.Began), cmp.Compare(b.ExecutionId, a.ExecutionId))
	})
	var out []workflow.Execution
	seen := p.After == ""
	for _, e := range all {
		if e.WorkflowId == w && seen && len(out) < p.Limit {
			out = append(out, e)
		}
		seen = seen || string(e.ExecutionId) == p.After
	}
	return out, nil
}

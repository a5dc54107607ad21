package api

import (
	"context"
	"slices"
	"strings"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

const (
	maxTags = 50
	// ownPrefix marks tags that callers may neither write nor remove: AWS's rule for tags, and where the fleet shows the
	// addresses of a server. They do not count towards the limit.
	ownPrefix = "aws:"
)

type tagResourceRequest struct {
	Arn  string
	Tags []server.Tag
}

func (a *API) tagResource(ctx context.Context, in tagResourceRequest) error {
	return a.changeTags(ctx, in.Arn, func(old []server.Tag) ([]server.Tag, error) { return addTags(old, in.Tags) })
}

type untagResourceRequest struct {
	Arn     string
	TagKeys []string
}

func (a *API) untagResource(ctx context.Context, in untagResourceRequest) error {
	return a.changeTags(ctx, in.Arn, func(old []server.Tag) ([]server.Tag, error) { return removeTags(old, in.TagKeys) })
}

type listTagsRequest struct {
	Arn string
	pageRequest
}

type listTagsAnswer struct {
	Arn       string
	NextToken string `json:",omitempty"`
	Tags      []server.Tag
}

func (a *API) listTagsForResource(ctx context.Context, in listTagsRequest) (*listTagsAnswer, error) {
	key := func(t server.Tag) string { return t.Key }
	fetch := func(p server.Page) ([]server.Tag, error) {
		tags, err := a.tags(ctx, in.Arn)
		return part(tags, p, key), err
	}
	tags, next, err := page(a, list{"ListTagsForResource", in.Arn}, in.pageRequest, fetch, key)
	if err != nil {
		return nil, err
	}
	return &listTagsAnswer{Arn: in.Arn, NextToken: next, Tags: append([]server.Tag{}, tags...)}, nil
}

// addTags puts tags over the ones that are there.
func addTags(old, in []server.Tag) ([]server.Tag, error) {
	tags := slices.Clone(old)
	for i, t := range in {
		if err := checkTagKey(t.Key); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(in[:i], func(o server.Tag) bool { return o.Key == t.Key }) {
			return nil, invalid("Tag key %s is given twice", t.Key)
		}
		if at := slices.IndexFunc(tags, func(o server.Tag) bool { return o.Key == t.Key }); at >= 0 {
			tags[at] = t
		} else {
			tags = append(tags, t)
		}
	}
	counted := 0
	for _, t := range tags {
		if !own(t.Key) {
			counted++
		}
	}
	if counted > maxTags {
		return nil, invalid("A resource cannot have more than %d tags", maxTags)
	}
	return tags, nil
}

// removeTags takes keys away; a key that is not there is gone already.
func removeTags(old []server.Tag, keys []string) ([]server.Tag, error) {
	for _, k := range keys {
		if err := checkTagKey(k); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(slices.Clone(old), func(t server.Tag) bool { return slices.Contains(keys, t.Key) }), nil
}

func checkTagKey(key string) error {
	switch {
	case key == "":
		return invalid("A tag key cannot be empty")
	case own(key):
		return invalid("Tag key %s is reserved: keys that begin with %s cannot be written or removed", key, ownPrefix)
	}
	return nil
}

// own says whether a tag belongs to the service. The prefix is reserved in any case of letters, but for the two tags that
// tell of a server's custom host name: AWS has everybody write them (user guide, "Working with custom hostnames").
func own(key string) bool {
	if key == "aws:transfer:customHostname" || key == "aws:transfer:route53HostedZoneId" {
		return false
	}
	return len(key) >= len(ownPrefix) && strings.EqualFold(key[:len(ownPrefix)], ownPrefix)
}

// resource is what an ARN names.
type resource struct {
	kind   string // server, user, host-key or workflow
	id     string // of the server or workflow
	member string // the user's name, or the host key's id
}

// resolve reads an ARN of a thing of ours that has tags.
func (a *API) resolve(arn string) (resource, error) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 {
		return resource{}, invalid("Arn %s is not an ARN", arn)
	}
	path := strings.Split(parts[5], "/")
	r := resource{kind: path[0]}
	known := ""
	switch {
	case r.kind == "server" && len(path) == 2:
		r.id = path[1]
		known = a.realm.ServerARN(server.ID(r.id))
	case r.kind == "workflow" && len(path) == 2:
		r.id = path[1]
		known = a.realm.WorkflowARN(r.id)
	case r.kind == "user" && len(path) == 3:
		r.id, r.member = path[1], path[2]
		known = a.realm.UserARN(server.ID(r.id), r.member)
	case r.kind == "host-key" && len(path) == 3:
		r.id, r.member = path[1], path[2]
		known = a.realm.HostKeyARN(server.ID(r.id), r.member)
	default:
		return resource{}, invalid("Arn %s does not name a server, a user, a host key or a workflow: tags of anything else are not supported yet", arn)
	}
	if arn != known {
		return resource{}, invalid("Arn %s is not of this service's region %s and account %s", arn, a.realm.Region, a.realm.Account)
	}
	return r, nil
}

// tags reads the tags of what an ARN names.
func (a *API) tags(ctx context.Context, arn string) ([]server.Tag, error) {
	r, err := a.resolve(arn)
	if err != nil {
		return nil, err
	}
	switch r.kind {
	case "server":
		s, err := a.servers.Server(ctx, server.ID(r.id))
		return s.Tags, err
	case "user":
		u, err := a.users.User(ctx, server.ID(r.id), r.member)
		return u.Tags, err
	case "host-key":
		k, err := a.hostKey(ctx, server.ID(r.id), r.member)
		return fromHostKeyTags(k.Tags), err
	}
	w, err := a.workflows.Workflow(ctx, workflow.ID(r.id))
	return fromWorkflowTags(w.Tags), err
}

// changeTags changes the tags of what an ARN names.
func (a *API) changeTags(ctx context.Context, arn string, change func([]server.Tag) ([]server.Tag, error)) error {
	r, err := a.resolve(arn)
	if err != nil {
		return err
	}
	switch r.kind {
	case "server":
		return a.servers.UpdateServer(ctx, server.ID(r.id), func(s *server.Server) error {
			tags, err := change(s.Tags)
			s.Tags = tags
			return err
		})
	case "user":
		return a.users.UpdateUser(ctx, server.ID(r.id), r.member, func(u *server.User) error {
			tags, err := change(u.Tags)
			u.Tags = tags
			return err
		})
	case "host-key":
		return a.keys.UpdateHostKey(ctx, server.ID(r.id), r.member, func(k *hostkeys.Key) error {
			tags, err := change(fromHostKeyTags(k.Tags))
			k.Tags = toHostKeyTags(tags)
			return err
		})
	}
	return a.workflows.UpdateWorkflow(ctx, workflow.ID(r.id), func(w *workflow.Workflow) error {
		tags, err := change(fromWorkflowTags(w.Tags))
		w.Tags = toWorkflowTags(tags)
		return err
	})
}

// The workflow room has a tag of its own, because it knows no servers.

func fromWorkflowTags(in []workflow.Tag) []server.Tag {
	out := make([]server.Tag, 0, len(in))
	for _, t := range in {
		out = append(out, server.Tag(t))
	}
	return out
}

func toWorkflowTags(in []server.Tag) []workflow.Tag {
	out := make([]workflow.Tag, 0, len(in))
	for _, t := range in {
		out = append(out, workflow.Tag(t))
	}
	return out
}

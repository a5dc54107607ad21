package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// Action is what is done to a resource.
type Action string

// The actions.
const (
	None    Action = "unchanged"
	Create  Action = "create"
	Update  Action = "update"
	Replace Action = "replace" // a workflow cannot be changed: a new one takes the place of the old one
	Delete  Action = "delete"
)

// Change is what the plan has for one resource.
type Change struct {
	Action  Action
	Kind    string // workflow, server, user or access
	Name    string
	Id      string   `json:",omitempty"` // known once the resource exists
	Details []string `json:",omitempty"`

	run func(ctx context.Context, c *Change) error
}

// Plan is what has to be done, in the order in which it has to be done.
type Plan struct {
	Changes []*Change

	client *transfer.Client
	known  map[reference]string // ids and ARNs of what exists
}

// Counts says how many changes of each action there are.
func (p *Plan) Counts() map[Action]int {
	n := map[Action]int{}
	for _, c := range p.Changes {
		n[c.Action]++
	}
	return n
}

// Plan compares the file with what is there. It changes nothing.
func (s *Spec) Plan(ctx context.Context, client *transfer.Client) (*Plan, error) {
	p := &Plan{client: client, known: map[reference]string{}}
	now, err := read(ctx, client)
	if err != nil {
		return nil, err
	}
	var leftovers []*Change
	for _, w := range s.workflows {
		leftovers = append(leftovers, p.planWorkflow(w, now.workflows[w.name])...)
	}
	for _, srv := range s.servers {
		if err := p.planServer(srv, now.servers[srv.name]); err != nil {
			return nil, err
		}
	}
	for _, u := range s.users {
		if err := p.planUser(ctx, u); err != nil {
			return nil, err
		}
	}
	for _, a := range s.accesses {
		if err := p.planAccess(ctx, a); err != nil {
			return nil, err
		}
	}
	p.Changes = append(p.Changes, leftovers...)
	return p, nil
}

// Run carries the plan out and stops at the first change that fails; a second Plan finds what is left to do. Done are the
// changes before it.
func (p *Plan) Run(ctx context.Context) (done []*Change, err error) {
	for i, c := range p.Changes {
		if c.run == nil {
			continue
		}
		if err := c.run(ctx, c); err != nil {
			return p.Changes[:i], fmt.Errorf("%s %s %s: %w", c.Action, c.Kind, c.Name, err)
		}
	}
	return p.Changes, nil
}

func (p *Plan) add(c *Change) { p.Changes = append(p.Changes, c) }

// learn keeps what a resource's references stand for.
func (p *Plan) learn(name string, attributes map[string]string) {
	for attribute, value := range attributes {
		p.known[reference{name, attribute}] = value
	}
}

// state is what is there of resources that some file made, by their names.
type state struct {
	workflows map[string][]types.DescribedWorkflow
	servers   map[string][]types.DescribedServer
}

func read(ctx context.Context, client *transfer.Client) (state, error) {
	s := state{map[string][]types.DescribedWorkflow{}, map[string][]types.DescribedServer{}}
	workflows := transfer.NewListWorkflowsPaginator(client, &transfer.ListWorkflowsInput{})
	for workflows.HasMorePages() {
		page, err := workflows.NextPage(ctx)
		if err != nil {
			return s, err
		}
		for _, w := range page.Workflows {
			out, err := client.DescribeWorkflow(ctx, &transfer.DescribeWorkflowInput{WorkflowId: w.WorkflowId})
			if err != nil {
				return s, err
			}
			if name := nameOf(out.Workflow.Tags); name != "" {
				s.workflows[name] = append(s.workflows[name], *out.Workflow)
			}
		}
	}
	servers := transfer.NewListServersPaginator(client, &transfer.ListServersInput{})
	for servers.HasMorePages() {
		page, err := servers.NextPage(ctx)
		if err != nil {
			return s, err
		}
		for _, srv := range page.Servers {
			out, err := client.DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: srv.ServerId})
			if err != nil {
				return s, err
			}
			if name := nameOf(out.Server.Tags); name != "" {
				s.servers[name] = append(s.servers[name], *out.Server)
			}
		}
	}
	return s, nil
}

func nameOf(tags []types.Tag) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == Tag {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// named adds the tag that a resource is found by.
func named(tags []types.Tag, name string) []types.Tag {
	return append(slices.Clone(tags), types.Tag{Key: aws.String(Tag), Value: aws.String(name)})
}

// tagDiff says which tags to set and which to take away. A file without Tags leaves all as they are; tags of the service
// and ours stay in any case.
func tagDiff(want, have []types.Tag) (set []types.Tag, drop []string, details []string) {
	if want == nil {
		return nil, nil, nil
	}
	find := func(tags []types.Tag, key *string) *string {
		for _, t := range tags {
			if aws.ToString(t.Key) == aws.ToString(key) {
				return t.Value
			}
		}
		return nil
	}
	for _, t := range want {
		if old := find(have, t.Key); old == nil || *old != aws.ToString(t.Value) {
			set = append(set, t)
			details = append(details, "tag "+aws.ToString(t.Key)+": "+show(aws.ToString(t.Value)))
		}
	}
	for _, t := range have {
		key := aws.ToString(t.Key)
		if key != Tag && !strings.HasPrefix(key, "aws:") && find(want, t.Key) == nil {
			drop = append(drop, key)
			details = append(details, "tag "+key+" goes")
		}
	}
	return set, drop, details
}

func (p *Plan) changeTags(ctx context.Context, arn *string, set []types.Tag, drop []string) error {
	if len(drop) > 0 {
		if _, err := p.client.UntagResource(ctx, &transfer.UntagResourceInput{Arn: arn, TagKeys: drop}); err != nil {
			return err
		}
	}
	if len(set) > 0 {
		_, err := p.client.TagResource(ctx, &transfer.TagResourceInput{Arn: arn, Tags: set})
		return err
	}
	return nil
}

// members prints what a new resource will have.
func members(props any, ignore ...string) []string {
	var details []string
	for _, d := range differ(props, struct{}{}, ignore...) {
		details = append(details, d.String())
	}
	return details
}

func texts(differences []difference) []string {
	var details []string
	for _, d := range differences {
		details = append(details, d.String())
	}
	return details
}

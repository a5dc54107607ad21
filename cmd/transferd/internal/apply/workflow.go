package apply

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// planWorkflow plans one workflow. There is no UpdateWorkflow: one that differs is made anew, and servers of the file
// that refer to it are updated to the new one. What goes at the end, when no server refers to it any more, is returned.
// An earlier run that stopped half-way may have left several of a name: the one that is as the file has it stays.
func (p *Plan) planWorkflow(w *workflowSpec, found []types.DescribedWorkflow) (leftovers []*Change) {
	resolve(w.props, p.known)
	keep := -1
	for i, old := range found {
		if keep < 0 && sameWorkflow(w.props, old) {
			keep = i
		}
	}
	for i, old := range found {
		if i != keep {
			leftovers = append(leftovers, p.deleteWorkflow(w.name, old))
		}
	}
	if keep >= 0 {
		p.keepWorkflow(w, found[keep])
		return leftovers
	}
	c := &Change{Action: Create, Kind: "workflow", Name: w.name, Details: members(w.props, "Tags")}
	if len(found) > 0 {
		c.Action = Replace
		c.Details = texts(differ(withEmpty(w.props), found[0], "Tags"))
	}
	c.run = func(ctx context.Context, c *Change) error {
		resolve(w.props, p.known)
		in := *w.props
		in.Tags = named(in.Tags, w.name)
		out, err := p.client.CreateWorkflow(ctx, &in)
		if err != nil {
			return err
		}
		c.Id = aws.ToString(out.WorkflowId)
		described, err := p.client.DescribeWorkflow(ctx, &transfer.DescribeWorkflowInput{WorkflowId: out.WorkflowId})
		if err != nil {
			return err
		}
		p.learn(w.name, map[string]string{"WorkflowId": c.Id, "Arn": aws.ToString(described.Workflow.Arn)})
		return nil
	}
	p.add(c)
	return leftovers
}

// sameWorkflow compares whole workflows: a member that the file does not have must not be there.
func sameWorkflow(want *transfer.CreateWorkflowInput, have types.DescribedWorkflow) bool {
	return len(differ(withEmpty(want), have, "Tags")) == 0
}

// withEmpty says for every member that the file leaves out that it is to be empty.
func withEmpty(props *transfer.CreateWorkflowInput) *transfer.CreateWorkflowInput {
	full := *props
	if full.Description == nil {
		full.Description = aws.String("")
	}
	if full.OnExceptionSteps == nil {
		full.OnExceptionSteps = []types.WorkflowStep{}
	}
	return &full
}

func (p *Plan) keepWorkflow(w *workflowSpec, have types.DescribedWorkflow) {
	id := aws.ToString(have.WorkflowId)
	p.learn(w.name, map[string]string{"WorkflowId": id, "Arn": aws.ToString(have.Arn)})
	c := &Change{Action: None, Kind: "workflow", Name: w.name, Id: id}
	if set, drop, details := tagDiff(w.props.Tags, have.Tags); len(details) > 0 {
		c.Action, c.Details = Update, details
		c.run = func(ctx context.Context, _ *Change) error { return p.changeTags(ctx, have.Arn, set, drop) }
	}
	p.add(c)
}

// deleteWorkflow takes an old workflow away, unless a server that is none of this file's still uses it.
func (p *Plan) deleteWorkflow(name string, old types.DescribedWorkflow) *Change {
	return &Change{
		Action: Delete, Kind: "workflow", Name: name, Id: aws.ToString(old.WorkflowId), Details: []string{"if no server uses it"},
		run: func(ctx context.Context, c *Change) error {
			_, err := p.client.DeleteWorkflow(ctx, &transfer.DeleteWorkflowInput{WorkflowId: old.WorkflowId})
			var used *types.InvalidRequestException
			var gone *types.ResourceNotFoundException
			switch {
			case errors.As(err, &used):
				c.Action, c.Details = None, []string{"kept: " + used.ErrorMessage()}
				return nil
			case errors.As(err, &gone):
				err = nil
			}
			c.Details = nil
			return err
		},
	}
}

package api

import (
	"context"
	"slices"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

type createWorkflowRequest struct {
	Description               string
	Steps                     []workflow.StepSpec
	OnExceptionSteps          []workflow.StepSpec
	Tags                      []server.Tag
	StructuredLogDestinations []string
}

type workflowAnswer struct{ WorkflowId workflow.ID }

func (a *API) createWorkflow(ctx context.Context, in createWorkflowRequest) (*workflowAnswer, error) {
	if slices.ContainsFunc(in.StructuredLogDestinations, func(arn string) bool { return !logGroup(arn) }) {
		return nil, invalid(badLogGroup)
	}
	tags, err := addTags(nil, in.Tags)
	if err != nil {
		return nil, err
	}
	w := workflow.Workflow{
		WorkflowId: workflow.NewID(), Description: in.Description,
		Steps: in.Steps, OnExceptionSteps: in.OnExceptionSteps, Tags: toWorkflowTags(tags),
		StructuredLogDestinations: in.StructuredLogDestinations,
	}
	w.Arn = a.realm.WorkflowARN(string(w.WorkflowId))
	if err := w.Validate(); err != nil {
		return nil, invalid("%s", err)
	}
	if err := a.workflows.CreateWorkflow(ctx, w); err != nil {
		return nil, err
	}
	return &workflowAnswer{w.WorkflowId}, nil
}

type workflowRequest struct{ WorkflowId workflow.ID }

func (a *API) describeWorkflow(ctx context.Context, in workflowRequest) (any, error) {
	w, err := a.workflows.Workflow(ctx, in.WorkflowId)
	if err != nil {
		return nil, err
	}
	return struct{ Workflow workflow.Workflow }{w}, nil
}

func (a *API) deleteWorkflow(ctx context.Context, in workflowRequest) error {
	return a.workflows.DeleteWorkflow(ctx, in.WorkflowId)
}

// listedWorkflow is shape ListedWorkflow.
type listedWorkflow struct {
	WorkflowId  workflow.ID
	Description string `json:",omitempty"`
	Arn         string
}

type listWorkflowsAnswer struct {
	NextToken string `json:",omitempty"`
	Workflows []listedWorkflow
}

func (a *API) listWorkflows(ctx context.Context, in pageRequest) (*listWorkflowsAnswer, error) {
	all, next, err := page(a, list{operation: "ListWorkflows"}, in,
		func(p server.Page) ([]workflow.Workflow, error) { return a.workflows.Workflows(ctx, p) },
		func(w workflow.Workflow) string { return string(w.WorkflowId) })
	if err != nil {
		return nil, err
	}
	out := &listWorkflowsAnswer{NextToken: next, Workflows: make([]listedWorkflow, 0, len(all))}
	for _, w := range all {
		out.Workflows = append(out.Workflows, listedWorkflow{WorkflowId: w.WorkflowId, Description: w.Description, Arn: w.Arn})
	}
	return out, nil
}

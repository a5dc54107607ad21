package api_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/workflow"
)

func steps() []types.WorkflowStep {
	return []types.WorkflowStep{
		{Type: types.WorkflowStepTypeCopy, CopyStepDetails: &types.CopyStepDetails{
			Name: aws.String("copy"), OverwriteExisting: types.OverwriteExistingTrue, SourceFileLocation: aws.String("${original.file}"),
			DestinationFileLocation: &types.InputFileLocation{S3FileLocation: &types.S3InputFileLocation{Bucket: aws.String("bucket"), Key: aws.String("done/${transfer:UserName}/")}},
		}},
		{Type: types.WorkflowStepTypeTag, TagStepDetails: &types.TagStepDetails{Tags: []types.S3Tag{{Key: aws.String("state"), Value: aws.String("fertig ü")}}}},
		{Type: types.WorkflowStepTypeDelete, DeleteStepDetails: &types.DeleteStepDetails{SourceFileLocation: aws.String("${original.file}")}},
	}
}

func (w *world) newWorkflow(t testing.TB) string {
	t.Helper()
	out := ok[*transfer.CreateWorkflowOutput](t)(w.sdk.CreateWorkflow(t.Context(), &transfer.CreateWorkflowInput{
		Description: aws.String("copy - tag"), Steps: steps(), OnExceptionSteps: steps()[2:], Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
	}))
	return *out.WorkflowId
}

func TestWorkflowLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newWorkflow(t)
	got := *ok[*transfer.DescribeWorkflowOutput](t)(w.sdk.DescribeWorkflow(t.Context(), &transfer.DescribeWorkflowInput{WorkflowId: &id})).Workflow
	want := types.DescribedWorkflow{
		Arn: aws.String("arn:aws:transfer:eu-central-1:123456789012:workflow/" + id), WorkflowId: &id, Description: aws.String("copy - tag"),
		Steps: steps(), OnExceptionSteps: steps()[2:], Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}
	list := ok[*transfer.ListWorkflowsOutput](t)(w.sdk.ListWorkflows(t.Context(), &transfer.ListWorkflowsInput{}))
	if len(list.Workflows) != 1 || *list.Workflows[0].WorkflowId != id || *list.Workflows[0].Description != "copy - tag" {
		t.Errorf("list %s", pretty(list))
	}

	s := ok[*transfer.CreateServerOutput](t)(w.sdk.CreateServer(t.Context(), &transfer.CreateServerInput{
		WorkflowDetails: &types.WorkflowDetails{OnPartialUpload: []types.WorkflowDetail{{WorkflowId: &id, ExecutionRole: aws.String(role)}}},
	}))
	remove := func() error {
		_, err := w.sdk.DeleteWorkflow(t.Context(), &transfer.DeleteWorkflowInput{WorkflowId: &id})
		return err
	}
	refusal(t, remove(), "InvalidRequestException", "Workflow is still in use by server "+*s.ServerId)
	if _, err := w.sdk.DeleteServer(t.Context(), &transfer.DeleteServerInput{ServerId: s.ServerId}); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	refusal(t, remove(), "ResourceNotFoundException", id)
	for _, operation := range []string{"DescribeWorkflow", "ListExecutions"} {
		w.call(t, operation, `{"WorkflowId":"`+id+`"}`).refused(t, 400, "ResourceNotFoundException", "Unknown workflow "+id)
	}
}

func TestWorkflowRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const to = `"DestinationFileLocation":{"S3FileLocation":{"Bucket":"bucket","Key":"k"}}`
	for _, c := range []struct{ steps, exception, word string }{
		{``, "InvalidRequestException", "at least one step"},
		{`{}`, "InvalidRequestException", "step 1 of Steps"},
		{`{"Type":"CUSTOM","CustomStepDetails":{}}`, "InvalidRequestException", "needs Target"},
		{`{"Type":"CUSTOM","CustomStepDetails":{"Target":"function"}}`, "ValidationException", "steps.1.member.customStepDetails.target"},
		{`{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","TimeoutSeconds":0}}`, "ValidationException", "steps.1.member.customStepDetails.timeoutSeconds"},
		{`{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","TimeoutSeconds":1801}}`, "ValidationException", "steps.1.member.customStepDetails.timeoutSeconds"},
		{`{"Type":"COPY"}`, "InvalidRequestException", "details"},
		{`{"Type":"COPY","TagStepDetails":{"Tags":[{"Key":"a","Value":"b"}]}}`, "InvalidRequestException", "details"},
		{`{"Type":"DELETE","DeleteStepDetails":{},"CustomStepDetails":{}}`, "InvalidRequestException", "details"},
		{`{"Type":"COPY","CopyStepDetails":{}}`, "InvalidRequestException", "DestinationFileLocation"},
		{`{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"EfsFileLocation":{"FileSystemId":"fs-12345678"}}}}`, "InvalidRequestException", "EfsFileLocation"},
		{`{"Type":"COPY","CopyStepDetails":{` + to + `,"SourceFileLocation":"${other.file}"}}`, "InvalidRequestException", "SourceFileLocation"},
		{`{"Type":"COPY","CopyStepDetails":{` + to + `,"SourceFileLocation":"other"}}`, "ValidationException", "steps.1.member.copyStepDetails.sourceFileLocation"},
		{`{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"bucket","Key":"${transfer:Moon}"}}}}`, "InvalidRequestException", "${transfer:Moon}"},
		{`{"Type":"TAG","TagStepDetails":{}}`, "InvalidRequestException", "tag"},
		{`{"Type":"TAG","TagStepDetails":{"Tags":[]}}`, "ValidationException", "steps.1.member.tagStepDetails.tags"},
		{`{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"a","Value":"b"},{"Key":"a","Value":"c"}]}}`, "InvalidRequestException", "twice"},
		{`{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"","Value":"b"}]}}`, "ValidationException", "steps.1.member.tagStepDetails.tags.1.member.key"},
		{`{"Type":"MOVE"}`, "ValidationException", "[COPY, CUSTOM, TAG, DELETE, DECRYPT]"},
		{strings.TrimSuffix(strings.Repeat(`{"Type":"DELETE","DeleteStepDetails":{}},`, 9), ","), "ValidationException", "less than or equal to 8"},
	} {
		w.call(t, "CreateWorkflow", `{"Steps":[`+c.steps+`]}`).refused(t, 400, c.exception, c.word)
		if c.steps != `` {
			w.call(t, "CreateWorkflow", `{"Steps":[{"Type":"DELETE","DeleteStepDetails":{}}],"OnExceptionSteps":[`+c.steps+`]}`).refused(t, 400, c.exception)
		}
	}
	w.call(t, "CreateWorkflow", `{"Steps":[{"Type":"DELETE","DeleteStepDetails":{}}],"StructuredLogDestinations":["arn:aws:logs:eu-central-1:1:x"]}`).
		refused(t, 400, "InvalidRequestException", "StructuredLogDestinations")
	if _, n := w.count(); n != 0 {
		t.Errorf("%d workflows were made", n)
	}
}

// execution puts an execution into the catalogue, as the engine would.
func (w *world) execution(flow, on string, n int, ended bool) workflow.Execution {
	began := time.Date(2026, 11, 22, 10, 0, n, 250e6, time.UTC)
	e := workflow.Execution{
		ExecutionId:         workflow.ExecutionID(fmt.Sprintf("abcdef01-2345-6789-abcd-%012d", n)),
		InitialFileLocation: workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: "bucket", Key: "in/a", Etag: "e"}},
		ServiceMetadata:     workflow.ServiceMetadata{UserDetails: workflow.UserDetails{UserName: "anna", ServerId: on, SessionId: "0123456789abcdef"}},
		ExecutionRole:       role, Status: workflow.InProgress, WorkflowId: workflow.ID(flow), Trigger: workflow.OnPartialUpload,
		Evidence: "disconnect", Began: began,
	}
	if ended {
		e.Status, e.Ended = workflow.Exception, began.Add(3*time.Second)
		e.Results.Steps = []workflow.StepResult{
			{StepType: "COPY", Attempt: 2, Began: began, Ended: began.Add(time.Second)},
			{StepType: "TAG", Attempt: 1, Began: began.Add(time.Second), Ended: began.Add(2 * time.Second), Error: &workflow.Error{Type: workflow.NotFound, Message: "gone"}},
		}
		e.Results.OnExceptionSteps = []workflow.StepResult{{StepType: "DELETE", Attempt: 1, Began: began, Ended: began}}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.executions[e.ExecutionId] = e
	return e
}

func TestExecutionsStayReadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow, id := w.newWorkflow(t), w.newServer(t)
	e := w.execution(flow, id, 1, true)
	describe := func() types.DescribedExecution {
		upper := strings.ToUpper(string(e.ExecutionId))
		out := ok[*transfer.DescribeExecutionOutput](t)(w.sdk.DescribeExecution(t.Context(), &transfer.DescribeExecutionInput{WorkflowId: &flow, ExecutionId: &upper}))
		if *out.WorkflowId != flow {
			t.Errorf("workflow %s", *out.WorkflowId)
		}
		return *out.Execution
	}
	got := describe()
	want := types.DescribedExecution{
		ExecutionId: aws.String(string(e.ExecutionId)), ExecutionRole: aws.String(role), Status: types.ExecutionStatusException,
		InitialFileLocation: &types.FileLocation{S3FileLocation: &types.S3FileLocation{Bucket: aws.String("bucket"), Key: aws.String("in/a"), Etag: aws.String("e")}},
		ServiceMetadata:     &types.ServiceMetadata{UserDetails: &types.UserDetails{UserName: aws.String("anna"), ServerId: &id, SessionId: aws.String("0123456789abcdef")}},
		Results: &types.ExecutionResults{
			Steps: []types.ExecutionStepResult{{StepType: types.WorkflowStepTypeCopy}, {
				StepType: types.WorkflowStepTypeTag, Error: &types.ExecutionError{Type: types.ExecutionErrorTypeNotFound, Message: aws.String("gone")},
			}},
			OnExceptionSteps: []types.ExecutionStepResult{{StepType: types.WorkflowStepTypeDelete}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}
	ok[*transfer.UpdateServerOutput](t)(w.sdk.UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: &id, LoggingRole: aws.String(role)}))
	if l := describe().LoggingConfiguration; l == nil || *l.LoggingRole != role || *l.LogGroupName != "/aws/transfer/"+id {
		t.Errorf("logging %s", pretty(l))
	}
	if _, err := w.sdk.DeleteServer(t.Context(), &transfer.DeleteServerInput{ServerId: &id}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.sdk.DeleteWorkflow(t.Context(), &transfer.DeleteWorkflowInput{WorkflowId: &flow}); err != nil {
		t.Fatal(err)
	}
	if l := describe().LoggingConfiguration; l != nil {
		t.Errorf("logging of a deleted server %s", pretty(l))
	}
	if list := ok[*transfer.ListExecutionsOutput](t)(w.sdk.ListExecutions(t.Context(), &transfer.ListExecutionsInput{WorkflowId: &flow})); len(list.Executions) != 1 {
		t.Errorf("list of a deleted workflow %s", pretty(list))
	}

	body := fmt.Sprintf(`{"WorkflowId":%q,"ExecutionId":%q}`, flow, e.ExecutionId)
	var ours struct {
		Execution struct{ Transferd json.RawMessage }
	}
	if err := json.Unmarshal([]byte(w.call(t, "DescribeExecution", body).Body), &ours); err != nil {
		t.Fatal(err)
	}
	const extra = `{"Trigger":"OnPartialUpload","Evidence":"disconnect","Began":1795341601.25,"Ended":1795341604.25,` +
		`"Steps":[{"Attempt":2,"Began":1795341601.25,"Ended":1795341602.25},{"Attempt":1,"Began":1795341602.25,"Ended":1795341603.25}],` +
		`"OnExceptionSteps":[{"Attempt":1,"Began":1795341601.25,"Ended":1795341601.25}]}`
	if string(ours.Execution.Transferd) != extra {
		t.Errorf("got  %s\nwant %s", ours.Execution.Transferd, extra)
	}
	w.call(t, "DescribeExecution", strings.Replace(body, flow, "w-00000000000000000", 1)).refused(t, 400, "ResourceNotFoundException", "Unknown execution")
	w.call(t, "DescribeExecution", strings.Replace(body, "abcdef01", "00000000", 1)).refused(t, 400, "ResourceNotFoundException", "Unknown execution")
}

func TestListExecutionsPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow, id := w.newWorkflow(t), w.newServer(t)
	if list := ok[*transfer.ListExecutionsOutput](t)(w.sdk.ListExecutions(t.Context(), &transfer.ListExecutionsInput{WorkflowId: &flow})); len(list.Executions) != 0 || *list.WorkflowId != flow {
		t.Errorf("got %s", pretty(list))
	}
	var want []string
	for n := range 5 {
		e := w.execution(flow, id, n, n%2 == 0)
		want = append([]string{string(e.ExecutionId)}, want...)
	}
	var got []string
	pages := transfer.NewListExecutionsPaginator(w.sdk, &transfer.ListExecutionsInput{WorkflowId: &flow, MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		for _, e := range ok[*transfer.ListExecutionsOutput](t)(pages.NextPage(t.Context())).Executions {
			got = append(got, *e.ExecutionId)
			if *e.InitialFileLocation.S3FileLocation.Key != "in/a" || *e.ServiceMetadata.UserDetails.UserName != "anna" || e.Status == "" {
				t.Errorf("got %s", pretty(e))
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

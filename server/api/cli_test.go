package api_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestAWSCLI sets a server up with the AWS command line, as an administrator would.
func TestAWSCLI(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Fatal("the AWS command line is not installed; make deps installs it")
	}
	w := newWorld(t)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), path, append([]string{"transfer", "--endpoint-url", w.url, "--output", "text"}, args...)...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+keyID, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_DEFAULT_REGION="+region,
			"AWS_REGION="+region, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1", "AWS_PAGER=")
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("aws %s: %v\n%s", args, err, out)
		}
		return out
	}
	flow := must("create-workflow", "--query", "WorkflowId", "--steps",
		`[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"bucket","Key":"processed/"}}}},{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"a","Value":"b"}]}}]`)
	id := must("create-server", "--query", "ServerId")
	must("update-server", "--server-id", id, "--workflow-details", `{"OnUpload":[{"WorkflowId":"`+flow+`","ExecutionRole":"`+role+`"}]}`)
	if got := must("describe-server", "--server-id", id, "--query", "Server.WorkflowDetails.OnUpload[0].WorkflowId"); got != flow {
		t.Errorf("attached %s, want %s", got, flow)
	}
	must("create-user", "--server-id", id, "--user-name", "anna", "--role", role, "--home-directory", "/bucket/anna")
	key := must("import-ssh-public-key", "--server-id", id, "--user-name", "anna", "--ssh-public-key-body", goodKey, "--query", "SshPublicKeyId")
	if got := must("describe-user", "--server-id", id, "--user-name", "anna", "--query", "User.SshPublicKeys[0].SshPublicKeyId"); got != key {
		t.Errorf("key %s, want %s", got, key)
	}
	e := w.execution(flow, id, 1, true)
	if got := must("describe-execution", "--workflow-id", flow, "--execution-id", string(e.ExecutionId), "--query", "Execution.Results.Steps[1].Error.Type"); got != "NOT_FOUND" {
		t.Errorf("error type %s", got)
	}
	out, err := run("delete-workflow", "--workflow-id", flow)
	if err == nil || !strings.Contains(out, "(InvalidRequestException)") || !strings.Contains(out, "Workflow is still in use by server "+id) {
		t.Errorf("delete-workflow: %v %s", err, out)
	}
	must("delete-server", "--server-id", id)
}

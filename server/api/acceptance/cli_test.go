package acceptance_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/sync/errgroup"
)

// command is one run of the AWS command line.
type command struct {
	args string // split at spaces, once $name is replaced by a variable
	want string // a part of its output
	// after finds out whether a command that says nothing has done its work.
	after func(t *testing.T) bool
}

// TestCommands runs `aws transfer` with every command whose operation is served, and the waiters.
func TestCommands(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Fatal("the AWS command line is not installed; make deps installs it")
	}
	w := newWorld(t)
	s := newStage(t, w)
	commands := s.commands()
	outputs := make([]string, len(commands))
	var all errgroup.Group
	all.SetLimit(4) // each is a Python of its own, two thirds of a second of one processor
	for i, c := range commands {
		all.Go(func() error {
			cmd := exec.CommandContext(t.Context(), path, append([]string{"transfer", "--endpoint-url", w.url, "--output", "json"}, s.split(c.args)...)...)
			cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+admin, "AWS_SECRET_ACCESS_KEY="+secret(admin), "AWS_DEFAULT_REGION="+region,
				"AWS_REGION="+region, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
				"AWS_MAX_ATTEMPTS=1", "AWS_PAGER=")
			out, err := cmd.CombinedOutput()
			outputs[i] = string(out)
			if err != nil {
				t.Errorf("aws transfer %s: %v\n%s", c.args, err, out)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{}
	for i, c := range commands {
		name, _, _ := strings.Cut(c.args, " ")
		run[strings.ReplaceAll(name, "-", "")] = true
		if c.want == "" && c.after == nil || !strings.Contains(outputs[i], c.want) || c.want == "" && outputs[i] != "" {
			t.Errorf("aws transfer %s says %q, want %q in it", c.args, outputs[i], c.want)
		}
		if c.after != nil && !c.after(t) {
			t.Errorf("aws transfer %s has not done it", c.args)
		}
	}
	for _, r := range good(t) {
		if !run[strings.ToLower(r.Operation)] {
			t.Errorf("no command calls %s", r.Operation)
		}
	}
}

// stage is what the commands find: each that takes something away has a thing of its own.
type stage struct {
	t     *testing.T
	world *world
	sdk   *transfer.Client

	server, offline, spare, directory, gateway string
	workflow, spareWorkflow                    string
	execution                                  string
	key, spareKey                              string // SSH public keys of anna's
	hostKey, spareHostKey                      string
	vars                                       map[string]string
}

func newStage(t *testing.T, w *world) *stage {
	t.Helper()
	s := &stage{t: t, world: w, sdk: w.client(admin), vars: variables(t)}
	s.workflow, s.spareWorkflow = s.newWorkflow(), s.newWorkflow()
	s.server = s.newServer(&transfer.CreateServerInput{WorkflowDetails: &types.WorkflowDetails{
		OnUpload: []types.WorkflowDetail{{WorkflowId: &s.workflow, ExecutionRole: new(role)}},
	}})
	s.offline, s.spare = s.newServer(&transfer.CreateServerInput{}), s.newServer(&transfer.CreateServerInput{})
	s.directory = s.newServer(&transfer.CreateServerInput{
		IdentityProviderType:    types.IdentityProviderTypeAwsDirectoryService,
		IdentityProviderDetails: &types.IdentityProviderDetails{DirectoryId: new("d-0123456789")},
	})
	s.gateway = s.newServer(&transfer.CreateServerInput{
		IdentityProviderType:    types.IdentityProviderTypeApiGateway,
		IdentityProviderDetails: &types.IdentityProviderDetails{Url: new("https://idp.example.com"), InvocationRole: new(role)},
	})
	s.wait(s.server, types.StateOnline)
	s.wait(s.offline, types.StateOnline)
	must[*transfer.StopServerOutput](t)(s.sdk.StopServer(t.Context(), &transfer.StopServerInput{ServerId: &s.offline}))
	s.wait(s.offline, types.StateOffline)
	for _, name := range []string{"anna", "otto"} {
		must[*transfer.CreateUserOutput](t)(s.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{
			ServerId: &s.server, UserName: &name, Role: new(role), Tags: []types.Tag{{Key: new("a"), Value: new("b")}},
		}))
	}
	for _, group := range []string{"S-1-5-1", "S-1-5-2"} {
		must[*transfer.CreateAccessOutput](t)(s.sdk.CreateAccess(t.Context(), &transfer.CreateAccessInput{ServerId: &s.directory, ExternalId: &group, Role: new(role)}))
	}
	s.key, s.spareKey = s.newKey("ssh_ecdsa"), s.newKey("ssh_rsa")
	s.hostKey, s.spareHostKey = s.newHostKey("pem_ecdsa"), s.newHostKey("pem_rsa")
	s.execution = w.execution(t, s.server)
	return s
}

func (s *stage) newServer(in *transfer.CreateServerInput) string {
	return *must[*transfer.CreateServerOutput](s.t)(s.sdk.CreateServer(s.t.Context(), in)).ServerId
}

func (s *stage) newWorkflow() string {
	return *must[*transfer.CreateWorkflowOutput](s.t)(s.sdk.CreateWorkflow(s.t.Context(), &transfer.CreateWorkflowInput{
		Steps: []types.WorkflowStep{{Type: types.WorkflowStepTypeDelete, DeleteStepDetails: &types.DeleteStepDetails{}}},
	})).WorkflowId
}

func (s *stage) newKey(name string) string {
	in := &transfer.ImportSshPublicKeyInput{ServerId: &s.server, UserName: new("anna"), SshPublicKeyBody: new(s.vars[name])}
	return *must[*transfer.ImportSshPublicKeyOutput](s.t)(s.sdk.ImportSshPublicKey(s.t.Context(), in)).SshPublicKeyId
}

func (s *stage) newHostKey(name string) string {
	in := &transfer.ImportHostKeyInput{ServerId: &s.server, HostKeyBody: new(s.vars[name])}
	return *must[*transfer.ImportHostKeyOutput](s.t)(s.sdk.ImportHostKey(s.t.Context(), in)).HostKeyId
}

// wait waits for a server's state as Terraform does, by looking.
func (s *stage) wait(id string, state types.State) types.DescribedServer {
	s.t.Helper()
	return waitState(s.t, s.sdk, id, state)
}

func waitState(t testing.TB, sdk *transfer.Client, id string, state types.State) types.DescribedServer {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got := *must[*transfer.DescribeServerOutput](t)(sdk.DescribeServer(t.Context(), &transfer.DescribeServerInput{ServerId: &id})).Server
		if got.State == state {
			return got
		}
		select {
		case <-deadline:
			t.Fatalf("server %s is %s, want %s", id, got.State, state)
		case <-tick.C:
		}
	}
}

// split makes arguments of a command: a variable is one, whatever is in it.
func (s *stage) split(args string) []string {
	list := strings.Fields(args)
	for i, a := range list {
		if value, ok := s.vars[strings.TrimPrefix(a, "$")]; ok && a[0] == '$' {
			list[i] = value
		}
	}
	return list
}

// commands are all of them. They run side by side.
func (s *stage) commands() []command {
	on := " --server-id " + s.server
	anna := on + " --user-name anna"
	arn := "arn:aws:transfer:" + region + ":" + account + ":"
	return []command{
		{args: "create-server --protocols SFTP --tags Key=a,Value=b", want: `"ServerId": "s-`},
		{args: "describe-server" + on, want: `"State": "ONLINE"`},
		{args: "update-server" + on + " --pre-authentication-login-banner hello", want: s.server},
		{args: "delete-server --server-id " + s.spare, after: s.fails("no server", func(c *transfer.Client) error {
			_, err := c.DescribeServer(s.t.Context(), &transfer.DescribeServerInput{ServerId: &s.spare})
			return err
		})},
		{args: "list-servers --max-items 100 --page-size 2", want: s.server},
		{args: "start-server --server-id " + s.offline, after: func(*testing.T) bool { s.wait(s.offline, types.StateOnline); return true }},
		{args: "stop-server --server-id " + s.gateway, after: func(*testing.T) bool { s.wait(s.gateway, types.StateOffline); return true }},
		{args: "wait server-online" + on, after: func(*testing.T) bool { return true }},

		{args: "create-user" + on + " --user-name emil --role " + role + ` --home-directory-type LOGICAL --home-directory-mappings [{"Entry":"/","Target":"/bucket/${transfer:UserName}"}]`, want: `"UserName": "emil"`},
		{args: "describe-user" + anna, want: `:user/` + s.server + `/anna"`},
		{args: "update-user" + anna + " --home-directory /bucket/anna", want: `"UserName": "anna"`},
		{args: "delete-user" + on + " --user-name otto", after: s.fails("otto", func(c *transfer.Client) error {
			_, err := c.DescribeUser(s.t.Context(), &transfer.DescribeUserInput{ServerId: &s.server, UserName: new("otto")})
			return err
		})},
		{args: "list-users" + on, want: `"UserName": "anna"`},
		{args: "import-ssh-public-key" + anna + " --ssh-public-key-body $ssh_ed25519", want: `"SshPublicKeyId": "key-`},
		{args: "delete-ssh-public-key" + anna + " --ssh-public-key-id " + s.spareKey, after: s.keyIsGone},

		{args: "import-host-key" + on + " --host-key-body $pem_ed25519", want: `"HostKeyId": "hostkey-`},
		{args: "describe-host-key" + on + " --host-key-id " + s.hostKey, want: `"HostKeyFingerprint": "` + s.vars["fingerprint_ecdsa"]},
		{args: "update-host-key" + on + " --host-key-id " + s.hostKey + " --description new", want: s.hostKey},
		{args: "delete-host-key" + on + " --host-key-id " + s.spareHostKey, after: s.fails("no key", func(c *transfer.Client) error {
			_, err := c.DescribeHostKey(s.t.Context(), &transfer.DescribeHostKeyInput{ServerId: &s.server, HostKeyId: &s.spareHostKey})
			return err
		})},
		{args: "list-host-keys" + on, want: s.hostKey},

		{args: "create-access --server-id " + s.directory + " --external-id S-1-5-3 --role " + role, want: `"ExternalId": "S-1-5-3"`},
		{args: "describe-access --server-id " + s.directory + " --external-id S-1-5-1", want: `"Role": "` + role},
		{args: "update-access --server-id " + s.directory + " --external-id S-1-5-1 --home-directory /bucket/all", want: `"ExternalId": "S-1-5-1"`},
		{args: "delete-access --server-id " + s.directory + " --external-id S-1-5-2", after: s.fails("no access", func(c *transfer.Client) error {
			_, err := c.DescribeAccess(s.t.Context(), &transfer.DescribeAccessInput{ServerId: &s.directory, ExternalId: new("S-1-5-2")})
			return err
		})},
		{args: "list-accesses --server-id " + s.directory, want: `"ExternalId": "S-1-5-1"`},

		{args: `create-workflow --steps [{"Type":"DELETE","DeleteStepDetails":{}}]`, want: `"WorkflowId": "w-`},
		{args: "describe-workflow --workflow-id " + s.workflow, want: `:workflow/` + s.workflow},
		{args: "delete-workflow --workflow-id " + s.spareWorkflow, after: s.fails("no workflow", func(c *transfer.Client) error {
			_, err := c.DescribeWorkflow(s.t.Context(), &transfer.DescribeWorkflowInput{WorkflowId: &s.spareWorkflow})
			return err
		})},
		{args: "list-workflows", want: s.workflow},
		{args: "list-executions --workflow-id " + s.workflow, want: s.execution},
		{args: "describe-execution --workflow-id " + s.workflow + " --execution-id " + s.execution, want: `"Key": "anna/file"`},
		{args: "send-workflow-step-state --workflow-id " + s.workflow + " --execution-id " + s.execution + " --token callback --status SUCCESS", after: func(*testing.T) bool { return true }},

		{args: "test-identity-provider --server-id " + s.gateway + " --user-name anna --user-password secret", want: `"StatusCode": 200`},
		{args: "describe-security-policy --security-policy-name TransferSecurityPolicy-2024-01", want: "curve25519-sha256"},
		{args: "list-security-policies", want: "TransferSecurityPolicy-2024-01"},
		{args: "tag-resource --arn " + arn + "workflow/" + s.workflow + " --tags Key=a,Value=b", after: s.tagged("workflow/"+s.workflow, true)},
		{args: "untag-resource --arn " + arn + "user/" + s.server + "/anna --tag-keys a", after: s.tagged("user/"+s.server+"/anna", false)},
		{args: "list-tags-for-resource --arn " + arn + "server/" + s.server, want: `"Key": "aws:transferd:sftp-address"`},
	}
}

// fails looks whether a thing is gone.
func (s *stage) fails(what string, f func(*transfer.Client) error) func(*testing.T) bool {
	return func(t *testing.T) bool {
		err := f(s.sdk)
		t.Logf("%s: %v", what, err)
		return failure(err).Error == "ResourceNotFoundException"
	}
}

func (s *stage) keyIsGone(t *testing.T) bool {
	u := must[*transfer.DescribeUserOutput](t)(s.sdk.DescribeUser(t.Context(), &transfer.DescribeUserInput{ServerId: &s.server, UserName: new("anna")})).User
	for _, k := range u.SshPublicKeys {
		if *k.SshPublicKeyId == s.spareKey {
			return false
		}
	}
	return len(u.SshPublicKeys) == 2
}

func (s *stage) tagged(resource string, want bool) func(*testing.T) bool {
	return func(t *testing.T) bool {
		arn := "arn:aws:transfer:" + region + ":" + account + ":" + resource
		out := must[*transfer.ListTagsForResourceOutput](t)(s.sdk.ListTagsForResource(t.Context(), &transfer.ListTagsForResourceInput{Arn: &arn}))
		return (len(out.Tags) == 1) == want
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

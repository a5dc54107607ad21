package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

const applyFile = `
Workflows:
  archive:
    Description: keeps a copy
    Tags: [{Key: owner, Value: ops}]
    Steps:
      - Type: COPY
        CopyStepDetails:
          Name: copy
          DestinationFileLocation: {S3FileLocation: {Bucket: dev-bucket, Key: archive/}}
Servers:
  main:
    Protocols: [SFTP]
    PreAuthenticationLoginBanner: "hello\n"
    Tags: [{Key: Name, Value: main}]
    WorkflowDetails:
      OnUpload:
        - {WorkflowId: !Ref archive, ExecutionRole: "arn:aws:iam::000000000000:role/transfer"}
    Users:
      alice:
        Role: arn:aws:iam::000000000000:role/transfer
        HomeDirectory: /dev-bucket/alice
        SshPublicKeys: ["%s"]
      robert:
        Role: arn:aws:iam::000000000000:role/transfer
        HomeDirectoryType: LOGICAL
        HomeDirectoryMappings: [{Entry: /in, Target: "/dev-bucket/${transfer:UserName}"}]
`

type applyAnswer struct {
	Applied bool
	Changes []struct {
		Action, Kind, Name, Id string
		Details                []string
	}
}

// apply runs `transferd apply --json` and says what it did: "create server main".
func (p *proc) apply(name string, flags ...string) (did []string, answer applyAnswer) {
	p.t.Helper()
	stdout, stderr, code := p.transferd(append([]string{"apply", "-f", name, "--json"}, flags...)...)
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || code != 0 {
		p.t.Fatalf("apply: status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	for _, c := range answer.Changes {
		if c.Action != "unchanged" {
			did = append(did, c.Action+" "+c.Kind+" "+c.Name)
		}
	}
	return did, answer
}

func expectDone(t *testing.T, what string, did []string, want ...string) {
	t.Helper()
	if strings.Join(did, "; ") != strings.Join(want, "; ") {
		t.Errorf("%s: did %q, want %q", what, did, want)
	}
}

func publicKey(t *testing.T, key string) string {
	return strings.TrimSpace(string(mustRead(t, key+".pub")))
}

// TestApply: a plan changes nothing, a run reaches the state, a second run has nothing to do, and each change of the file
// becomes the one change that it asks for.
func TestApply(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	key, second := newSSHKey(t), newSSHKey(t)
	text := fmt.Sprintf(applyFile, publicKey(t, key))
	name := writeFile(t, text)
	all := []string{"create workflow archive", "create server main", "create user main/alice", "create user main/robert"}

	did, answer := p.apply(name, "--plan")
	expectDone(t, "the plan", did, all...)
	if n := len(p.aws("list-servers")["Servers"].([]any)); n != 2 || answer.Applied { // those of dev mode
		t.Errorf("after a plan there are %d servers, applied %v", n, answer.Applied)
	}
	did, answer = p.apply(name)
	expectDone(t, "the first run", did, all...)
	id := answer.Changes[1].Id
	did, _ = p.apply(name)
	expectDone(t, "the second run", did)
	if stdout, _, _ := p.transferd("apply", "-f", name, "--plan"); !strings.Contains(stdout, "Nothing to do: all 4 are as the file has them.") {
		t.Errorf("the plan of a state that is reached:\n%s", stdout)
	}
	p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(p.tag(id, "aws:transferd:sftp-address"))
	p.env["SFTP_USER"], p.env["SFTP_KEY"] = "alice", key
	if out, ok := p.login("pwd\n"); !ok {
		t.Errorf("the user cannot log in: %s", out)
	}

	edit := func(what, from, to string, want ...string) {
		t.Helper()
		if !strings.Contains(text, from) {
			t.Fatalf("%s: the file has no %q", what, from)
		}
		text = strings.Replace(text, from, to, 1)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		did, _ := p.apply(name)
		expectDone(t, what, did, want...)
		again, _ := p.apply(name)
		expectDone(t, what+", again", again)
	}
	edit("a banner", `"hello\n"`, `"bye\n"`, "update server main")
	if banner := p.server(id)["PreAuthenticationLoginBanner"]; banner != "bye\n" {
		t.Errorf("the banner is %q", banner)
	}
	edit("no banner", `"bye\n"`, `""`, "update server main")
	edit("a server's tags", "[{Key: Name, Value: main}]", "[{Key: team, Value: files}]", "update server main")
	if p.tag(id, "Name") != "" || p.tag(id, "team") != "files" || p.tag(id, "transferd:apply") != "main" || p.tag(id, "aws:transferd:sftp-address") == "" {
		t.Errorf("the tags are %v", p.server(id)["Tags"])
	}
	edit("a workflow's tags", "Value: ops", "Value: dev", "update workflow archive")
	edit("a workflow's step", "Key: archive/", "Key: kept/", "replace workflow archive", "update server main", "delete workflow archive")
	if n := len(p.aws("list-workflows")["Workflows"].([]any)); n != 1 {
		t.Errorf("%d workflows after one was replaced", n)
	}
	edit("a mapping", "Entry: /in", "Entry: /out", "update user main/robert")
	edit("a key", publicKey(t, key), publicKey(t, second), "update user main/alice")
	if out, ok := p.login("pwd\n"); ok {
		t.Errorf("the old key still opens: %s", out)
	}
	p.env["SFTP_KEY"] = second
	if out, ok := p.login("pwd\n"); !ok {
		t.Errorf("the new key does not open: %s", out)
	}

	text = strings.Replace(text, "Protocols: [SFTP]", "Protocols: [SFTP]\n    Domain: EFS", 1)
	stdout, stderr, code := p.transferd("apply", "-f", writeFile(t, text))
	if code != 1 || !strings.Contains(stderr, "Domain cannot be changed from \"S3\" to \"EFS\"") {
		t.Errorf("another domain: status %d\n%s%s", code, stdout, stderr)
	}
}

const applyTemplate = `
AWSTemplateFormatVersion: "2010-09-09"
Description: A server in CloudFormation's form
Resources:
  Alice:
    Type: AWS::Transfer::User
    DependsOn: Main
    Properties:
      ServerId: !GetAtt Main.ServerId
      UserName: alice
      Role: arn:aws:iam::000000000000:role/transfer
      HomeDirectoryType: LOGICAL
      HomeDirectoryMappings: [{Entry: /, Target: /dev-bucket/alice}]
      SshPublicKeys: ["%s"]
  Main:
    Type: AWS::Transfer::Server
    Properties:
      SecurityPolicyName: TransferSecurityPolicy-2024-01
      WorkflowDetails:
        OnUpload: [{ExecutionRole: "arn:aws:iam::000000000000:role/transfer", WorkflowId: {"Fn::GetAtt": [Whole, WorkflowId]}}]
        OnPartialUpload: [{ExecutionRole: "arn:aws:iam::000000000000:role/transfer", WorkflowId: {Ref: Cut}}]
  Whole:
    Type: AWS::Transfer::Workflow
    DeletionPolicy: Retain
    Properties:
      Steps: [{Type: TAG, TagStepDetails: {Name: tag, Tags: [{Key: state, Value: whole}]}}]
  Cut:
    Type: AWS::Transfer::Workflow
    Properties:
      Steps: [{Type: DELETE, DeleteStepDetails: {Name: delete, SourceFileLocation: "${original.file}"}}]
`

// TestApplyTemplate: CloudFormation's form, references in any order, over TLS with a server of its own.
func TestApplyTemplate(t *testing.T) {
	t.Parallel()
	p, _ := startServe(t)
	key := newSSHKey(t)
	name := writeFile(t, fmt.Sprintf(applyTemplate, publicKey(t, key)))
	did, answer := p.apply(name)
	expectDone(t, "the first run", did, "create workflow Whole", "create workflow Cut", "create server Main", "create user Main/alice")
	did, _ = p.apply(name)
	expectDone(t, "the second run", did)
	id := answer.Changes[2].Id
	details := p.server(id)["WorkflowDetails"].(map[string]any)
	for trigger, want := range map[string]string{"OnUpload": answer.Changes[0].Id, "OnPartialUpload": answer.Changes[1].Id} {
		if got := details[trigger].([]any)[0].(map[string]any)["WorkflowId"]; got != want {
			t.Errorf("%s runs %v, want %s", trigger, got, want)
		}
	}
	p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(p.tag(id, "aws:transferd:sftp-address"))
	p.env["SFTP_USER"], p.env["SFTP_KEY"] = "alice", key
	file, _ := file(t, 100)
	p.sftp("put " + file + " a.bin\n")
	p.awaitExecution(answer.Changes[0].Id, "alice/a.bin")

	p.as("READER", "secret2")
	if did, _ := p.apply(name, "--plan"); len(did) != 0 {
		t.Errorf("a read-only key plans %q", did)
	}
	changed := writeFile(t, strings.Replace(string(mustRead(t, name)), "2024-01", "2018-11", 1))
	if _, stderr, code := p.transferd("apply", "-f", changed); code != 1 || !strings.Contains(stderr, "AccessDeniedException") {
		t.Errorf("a read-only key applies: status %d\n%s", code, stderr)
	}
	p.stop()
}

// TestApplyUsage: what makes no sense ends with status 2 and a text that says where.
func TestApplyUsage(t *testing.T) {
	t.Parallel()
	p := &proc{t: t}
	for _, c := range []struct{ text, want string }{
		{"", "the file is empty"},
		{"Servers:\n  main:\n    Protocol: [SFTP]\n", "line 3: Servers.main.Protocol: unknown key; is it Protocols?"},
		{"Servers:\n  main:\n", "line 2: Servers.main: has no members"},
		{"Servers:\n  main:\n    Users: {alice: {}}\n", "line 3: Servers.main.Users.alice: needs a Role"},
		{"Servers:\n  main:\n    LoggingRole: !Sub x${AWS::AccountId}\n", "line 3: the function Sub is not supported, only Ref and GetAtt are"},
		{"Servers:\n  main:\n    LoggingRole: {'Fn::Join': ['', [a]]}\n", "line 3: the function Join is not supported"},
		{"Servers:\n  main:\n    LoggingRole: !Ref nobody\n", "server main: nobody is no server or workflow of this file"},
		{"Parameters: {}\nResources: {}\n", "line 1: Parameters: is not supported"},
		{"Resources:\n  B:\n    Type: AWS::S3::Bucket\n", "line 3: Resources.B.Type: is not AWS::Transfer::Server, User or Workflow"},
		{"Resources:\n  C:\n    Type: AWS::Transfer::Connector\n", "line 3: Resources.C.Type: AWS::Transfer::Connector is not supported"},
		{"Resources:\n  S: {Type: AWS::Transfer::Server}\n  U:\n    Type: AWS::Transfer::User\n    Properties: {ServerId: !Ref S, UserName: bob, Role: r}\n",
			"line 3: Resources.U: Ref of a server is its ARN: ServerId must be !GetAtt S.ServerId"},
		{"Resources:\n  S:\n    Type: AWS::Transfer::Server\n    Properties:\n      Protocls: [SFTP]\n", "line 5: Resources.S.Properties.Protocls: unknown key; is it Protocols?"},
		{"Resources:\n  S:\n    Type: AWS::Transfer::Server\n    Condition: x\n", "line 4: Resources.S.Condition: unknown key"},
	} {
		if _, stderr, code := p.transferd("apply", "-f", writeFile(t, c.text)); code != 2 || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: status %d, %s; want %q", c.text, code, stderr, c.want)
		}
	}
	if _, stderr, code := p.transferd("apply"); code != 2 || !strings.Contains(stderr, "-f FILE is missing") {
		t.Errorf("without -f: status %d, %s", code, stderr)
	}
	p.env = map[string]string{"AWS_ENDPOINT_URL_TRANSFER": "", "TRANSFER_ENDPOINT": "", "AWS_ENDPOINT_URL": ""}
	if _, stderr, code := p.transferd("apply", "-f", writeFile(t, "Servers: {}\n")); code != 1 || !strings.Contains(stderr, "no endpoint") {
		t.Errorf("without an endpoint: status %d, %s", code, stderr)
	}
}

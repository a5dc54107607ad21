package model

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func load(t testing.TB) *Model {
	t.Helper()
	m, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Load compiles every pattern; this counts them, so that a model without patterns would be noticed.
func TestLoadCompilesEveryPattern(t *testing.T) {
	t.Parallel()
	m := load(t)
	if n := len(m.Operations()); n != 71 {
		t.Errorf("%d operations, want 71", n)
	}
	patterns := 0
	for name, s := range m.shapes {
		if (s.Pattern != "") != (s.regexp != nil) {
			t.Errorf("%s: pattern %q is not compiled", name, s.Pattern)
		}
		if s.regexp != nil {
			patterns++
		}
	}
	if patterns < 50 {
		t.Errorf("%d patterns", patterns)
	}
	for _, name := range m.Operations() {
		op, _ := m.Operation(name)
		if m.shapes[op.Input] == nil {
			t.Errorf("%s: no input shape %q", name, op.Input)
		}
		if op.Output != "" && m.shapes[op.Output] == nil {
			t.Errorf("%s: no output shape %q", name, op.Output)
		}
	}
}

func TestPatternsMeanWhatJavaMeans(t *testing.T) {
	t.Parallel()
	m := load(t)
	for _, c := range []struct {
		shape, value string
		want         bool
	}{
		{"ServerId", "s-0123456789abcdef0", true},
		{"ServerId", "xs-0123456789abcdef0", false},
		{"ServerId", "s-0123456789abcdef0\n", false},
		{"UserName", "anna@example.org", true},
		{"UserName", "-anna", false},
		{"UserName", "änna", false},
		{"WorkflowDescription", "copy - and tag_2", true},
		{"WorkflowDescription", "a.b", false},
		{"HostKeyDescription", "plain ~ text", true},
		{"HostKeyDescription", "tab\t", false},
		{"HomeDirectory", "", true},
		{"HomeDirectory", "/a/b", true},
		{"HomeDirectory", "/a\r", false},
		{"HomeDirectory", "/a\u2028b", false},
		{"HomeDirectory", "a", false},
		{"PreAuthenticationLoginBanner", "two\r\nlines\v", true},
		{"PreAuthenticationLoginBanner", "bell\a", false},
		{"S3Key", "any ü 字 \n", true},
		{"NullableRole", "", true},
		{"NullableRole", "arn:aws:iam::123456789012:role/x", true},
		{"NullableRole", "arn:aws:iam::123456789012:role/x y", false},
		{"SourceFileLocation", "${original.file}", true},
		{"SourceFileLocation", "original.file", false},
		{"SshPublicKeyBody", "ssh-ed25519 AAAA \v", true},
		{"SshPublicKeyBody", "ssh-ed25519 AAAA a comment\n", true},
		{"SshPublicKeyBody", "ssh-ed25519\nAAAA", false},
		{"EfsPath", "a\x00", false},
	} {
		if got := m.shapes[c.shape].regexp.MatchString(c.value); got != c.want {
			t.Errorf("%s matches %q: %v, want %v", c.shape, c.value, got, c.want)
		}
	}
}

func TestCheckSaysEverythingAtOnce(t *testing.T) {
	t.Parallel()
	m := load(t)
	const role = `"arn:aws:iam::123456789012:role/x"`
	for name, c := range map[string]struct{ shape, body, want string }{
		"missing": {"DescribeServerRequest", `{}`,
			"1 validation error detected: Value null at 'serverId' failed to satisfy constraint: Member must not be null"},
		"null is missing": {"DescribeServerRequest", `{"ServerId":null}`,
			"1 validation error detected: Value null at 'serverId' failed to satisfy constraint: Member must not be null"},
		"wrong case is another member": {"DescribeServerRequest", `{"serverid":"s-0123456789abcdef0"}`,
			"1 validation error detected: Value null at 'serverId' failed to satisfy constraint: Member must not be null"},
		"length and pattern": {"DescribeServerRequest", `{"ServerId":"s-1"}`,
			"2 validation errors detected: Value 's-1' at 'serverId' failed to satisfy constraint: Member must have length greater than or equal to 19; " +
				"Value 's-1' at 'serverId' failed to satisfy constraint: Member must satisfy regular expression pattern: s-([0-9a-f]{17})"},
		"two members": {"DescribeUserRequest", `{"ServerId":"s-0123456789abcdef0","UserName":"a"}`,
			"2 validation errors detected: Value 'a' at 'userName' failed to satisfy constraint: Member must have length greater than or equal to 3; " +
				`Value 'a' at 'userName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w][\w@.-]{2,99}`},
		"enum": {"CreateServerRequest", `{"Domain":"NFS"}`,
			"1 validation error detected: Value 'NFS' at 'domain' failed to satisfy constraint: Member must satisfy enum value set: [S3, EFS]"},
		"enum in a list": {"CreateServerRequest", `{"Protocols":["SFTP","SMB","NFS"]}`,
			"1 validation error detected: Value '[SFTP, SMB, NFS]' at 'protocols' failed to satisfy constraint: " +
				"Member must satisfy constraint: [Member must satisfy enum value set: [SFTP, FTP, FTPS, AS2]]"},
		"list too short": {"CreateServerRequest", `{"Protocols":[]}`,
			"1 validation error detected: Value '[]' at 'protocols' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		"null in a list": {"CreateServerRequest", `{"Protocols":[null]}`,
			"1 validation error detected: 'protocols' failed to satisfy constraint: Member must satisfy constraint: [Member must not be null]"},
		"list of structures": {"CreateServerRequest", `{"Tags":[{"Key":"a","Value":"b"},{"Key":"c"}]}`,
			"1 validation error detected: Value null at 'tags.2.member.value' failed to satisfy constraint: Member must not be null"},
		"list too long": {"CreateServerRequest", `{"WorkflowDetails":{"OnUpload":[{"WorkflowId":"w-0123456789abcdefz","ExecutionRole":` + role + `},{"WorkflowId":"w-0123456789abcdefz","ExecutionRole":` + role + `}]}}`,
			"1 validation error detected: 'workflowDetails.onUpload' failed to satisfy constraint: Member must have length less than or equal to 1"},
		"number": {"ListServersRequest", `{"MaxResults":1001}`,
			"1 validation error detected: Value '1001' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		"number too small": {"ListServersRequest", `{"MaxResults":0}`,
			"1 validation error detected: Value '0' at 'maxResults' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		"a secret is not repeated": {"CreateServerRequest", `{"HostKey":"` + strings.Repeat("k", 4097) + `"}`,
			"1 validation error detected: 'hostKey' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		"a long value is not repeated": {"CreateUserRequest",
			`{"Role":` + role + `,"ServerId":"s-0123456789abcdef0","UserName":"anna","SshPublicKeyBody":"ssh-rsa ` + strings.Repeat("A", 2048) + `"}`,
			"1 validation error detected: 'sshPublicKeyBody' failed to satisfy constraint: Member must have length less than or equal to 2048"},
		"characters, not bytes": {"CreateServerRequest", `{"Tags":[{"Key":"` + strings.Repeat("ü", 129) + `","Value":""}]}`,
			"1 validation error detected: Value '" + strings.Repeat("ü", 129) + "' at 'tags.1.member.key' failed to satisfy constraint: Member must have length less than or equal to 128"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := m.Check(c.shape, []byte(c.body))
			if _, ok := errors.AsType[*ConstraintError](err); !ok {
				t.Fatalf("error %v, want a ConstraintError", err)
			}
			if got := err.Error(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestCheckRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	m := load(t)
	for body, want := range map[string]string{
		"":                                 "it ends too early",
		`{"ServerId":`:                     "it ends too early",
		`{ServerId:1}`:                     "at byte 2",
		`{} {}`:                            "data after its JSON object",
		`{}]`:                              "data after its JSON object",
		`[]`:                               "must be a JSON object, not a list",
		`null`:                             "must be a JSON object, not null",
		`"x"`:                              "must be a JSON object, not a string",
		"{\"ServerId\":\"\xff\"}":          "not valid UTF-8",
		`{"NextToken":"\\\ud83d"}`:         "half of a surrogate pair at byte 16",
		`{"NextToken":"\ud83dx"}`:          "half of a surrogate pair at byte 14",
		`{"NextToken":"\udca9\ud83d"}`:     "half of a surrogate pair at byte 14",
		`{"ServerId":1}`:                   "'serverId' must be a string, not a number",
		`{"MaxResults":"1"}`:               "'maxResults' must be a whole number, not a string",
		`{"MaxResults":1.5}`:               "'maxResults' must be a whole number, not a number",
		`{"MaxResults":1e400}`:             "'maxResults' must be a whole number, not a number",
		`{"ServerId":{},"NextToken":true}`: "'nextToken' must be a string, not a boolean; 'serverId' must be a string, not an object",
		strings.Repeat("[", 100_000):       "exceeded max depth",
	} {
		_, err := m.Check("ListUsersRequest", []byte(body))
		if _, ok := errors.AsType[*SyntaxError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %v, want one with %q", body, err, want)
		}
	}
	_, err := m.Check("CreateServerRequest", []byte(`{"Tags":{},"EndpointDetails":[],"Protocols":[1]}`))
	const want = "'endpointDetails' must be an object, not a list; 'protocols.1.member' must be a string, not a number; 'tags' must be a list, not an object"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestCheckDropsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	clean, err := load(t).Check("CreateServerRequest",
		[]byte(`{"domain":"EFS","Domain":"S3","New":{"a":[1]},"Tags":[{"Key":"a","Value":"b","Other":1}],"ProtocolDetails":{"PassiveIp":null}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(clean), `{"Domain":"S3","ProtocolDetails":{},"Tags":[{"Key":"a","Value":"b"}]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestViolationsAreCapped(t *testing.T) {
	t.Parallel()
	body := `{"Tags":[` + strings.TrimSuffix(strings.Repeat(`{},`, 200), ",") + `]}`
	_, err := load(t).Check("CreateServerRequest", []byte(body))
	if err == nil || !strings.HasPrefix(err.Error(), "401 validation errors detected: ") || !strings.HasSuffix(err.Error(), "; and 301 more") {
		t.Errorf("got %.100v", err)
	}
}

// FuzzCheck: whatever comes in, the answer is a clean document that checks again to itself, or one of the two errors,
// and never a panic.
func FuzzCheck(f *testing.F) {
	m := load(f)
	shapes := []string{"CreateServerRequest", "UpdateServerRequest", "CreateUserRequest", "CreateWorkflowRequest", "ListUsersRequest", "TagResourceRequest",
		"CreateAccessRequest", "ImportHostKeyRequest", "TestIdentityProviderRequest"}
	for i, seed := range []string{
		`{"Protocols":["SFTP"],"Tags":[{"Key":"a","Value":"b"}],"WorkflowDetails":{"OnUpload":[]}}`,
		`{"ServerId":"s-0123456789abcdef0","LoggingRole":""}`,
		`{"ServerId":"s-0123456789abcdef0","UserName":"anna","Role":"arn:aws:iam::123456789012:role/x","PosixProfile":{"Uid":1,"Gid":4294967295}}`,
		`{"Steps":[{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"a","Value":"ü"}]}}]}`,
		`{"MaxResults":1e3}`, `{"Tags":[null]}`, `[`, "\xff", `{"NextToken":"\ud83d\udca9 \\ud83d"}`, `{"NextToken":"\ud83d"}`,
	} {
		f.Add(uint8(i), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		shape := shapes[int(which)%len(shapes)]
		clean, err := m.Check(shape, body)
		if err != nil {
			_, syntax := errors.AsType[*SyntaxError](err)
			_, constraint := errors.AsType[*ConstraintError](err)
			if !syntax && !constraint {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := m.Check(shape, clean)
		if err != nil || string(again) != string(clean) || !json.Valid(clean) || !utf8.Valid(clean) {
			t.Fatalf("%q checks to %q, which checks to %q, %v", body, clean, again, err)
		}
	})
}

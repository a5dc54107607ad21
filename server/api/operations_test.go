package api_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/identity"
)

var update = flag.Bool("update", false, "write docs/operations.md anew")

const operationsPage = "../../docs/operations.md"

// operationGroup is a part of the API as its reference parts it, and since when transferd has it; empty: it has not.
type operationGroup struct {
	name, since string
	operations  []string
}

func operationGroups() []operationGroup {
	const first = "first release"
	return []operationGroup{
		{"server", first, []string{"CreateServer", "DescribeServer", "UpdateServer", "DeleteServer", "ListServers", "StartServer", "StopServer"}},
		{"user", first, []string{"CreateUser", "DescribeUser", "UpdateUser", "DeleteUser", "ListUsers", "ImportSshPublicKey", "DeleteSshPublicKey"}},
		{"host key", first, []string{"ImportHostKey", "DescribeHostKey", "UpdateHostKey", "DeleteHostKey", "ListHostKeys"}},
		{"access", first, []string{"CreateAccess", "DescribeAccess", "UpdateAccess", "DeleteAccess", "ListAccesses"}},
		{"workflow", first, []string{"CreateWorkflow", "DescribeWorkflow", "DeleteWorkflow", "ListWorkflows", "ListExecutions", "DescribeExecution", "SendWorkflowStepState"}},
		{"identity provider", first, []string{"TestIdentityProvider"}},
		{"security policy", first, []string{"DescribeSecurityPolicy", "ListSecurityPolicies"}},
		{"tag", first, []string{"TagResource", "UntagResource", "ListTagsForResource"}},
		{"AS2 profile", "", []string{"CreateProfile", "DescribeProfile", "UpdateProfile", "DeleteProfile", "ListProfiles"}},
		{"AS2 certificate", "", []string{"ImportCertificate", "DescribeCertificate", "UpdateCertificate", "DeleteCertificate", "ListCertificates"}},
		{"AS2 agreement", "", []string{"CreateAgreement", "DescribeAgreement", "UpdateAgreement", "DeleteAgreement", "ListAgreements"}},
		{"connector", "", []string{"CreateConnector", "DescribeConnector", "UpdateConnector", "DeleteConnector", "ListConnectors", "TestConnection", "StartFileTransfer", "ListFileTransferResults", "StartDirectoryListing", "StartRemoteDelete", "StartRemoteMove"}},
		{"web app", "", []string{"CreateWebApp", "DescribeWebApp", "UpdateWebApp", "DeleteWebApp", "ListWebApps", "DescribeWebAppCustomization", "UpdateWebAppCustomization", "DeleteWebAppCustomization"}},
	}
}

// keptMember is a member that is stored and shown as it was sent, and that nothing else in the product looks at.
type keptMember struct {
	noun   string // Server, User or Access
	member string // its path in the noun's shape
	why    string

	create string   // members of a Create request that has it
	update string   // members of an Update request that has it, where Create cannot; the server is OFFLINE then
	carry  []string // the files outside the control plane that hand it on and do not act on it
}

func keptMembers() []keptMember {
	const vpc = `"EndpointType":"VPC","EndpointDetails":{"VpcId":"vpc-0123456789abcdef0","SubnetIds":["subnet-0123456789abcdef0"],"SecurityGroupIds":["sg-0123456789abcdef0"]}`
	const network = "there is no VPC: servers listen where the configuration says"
	return []keptMember{
		{"Server", "EndpointType", network, vpc, "", nil},
		{"Server", "EndpointDetails.VpcId", network, vpc, "", nil},
		{"Server", "EndpointDetails.SubnetIds", network, vpc, "", nil},
		{"Server", "EndpointDetails.SecurityGroupIds", network + "; use the host's firewall", vpc, "", nil},
		{"Server", "EndpointDetails.VpcEndpointId", network, `"EndpointType":"VPC_ENDPOINT","EndpointDetails":{"VpcEndpointId":"vpce-0123456789abcdef0"}`, "", nil},
		{"Server", "EndpointDetails.AddressAllocationIds", network, vpc, `"EndpointDetails":{"AddressAllocationIds":["eipalloc-0123456789abcdef0"]}`, nil},
		{"Server", "IpAddressType", "servers listen where the configuration says, IPv6 or not", `"IpAddressType":"DUALSTACK"`, "", nil},
		{"Server", "LoggingRole", "there is no CloudWatch: the log is the daemon's own", `"LoggingRole":"` + role + `"`, "", nil},
		{"Server", "StructuredLogDestinations", "there is no CloudWatch: the log is the daemon's own", `"StructuredLogDestinations":["arn:aws:logs:eu-central-1:123456789012:log-group:transfer:*"]`, "", nil},
		{"Server", "S3StorageOptions.DirectoryListingOptimization", "listings are always optimized: docs/decisions/0018", `"S3StorageOptions":{"DirectoryListingOptimization":"ENABLED"}`, "", nil},
	}
}

// TestOperationsPage makes docs/operations.md of what the control plane does, and fails if the page says something else.
func TestOperationsPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var b bytes.Buffer
	b.WriteString("# Operations\n\n<!-- Written by go test ./server/api -run TestOperationsPage -update. Do not edit. -->\n\n")
	var rows strings.Builder
	var listed []string
	done, needs, wired := 0, partial(), wiredMembers(t)
	for _, g := range operationGroups() {
		for _, name := range g.operations {
			listed = append(listed, name)
			state, since := "refused by name", "–"
			if w.does(t, name) {
				done++
				state, since = "supported", g.since
			}
			if missing := needs[name]; missing.config != "" && !wired[missing.config] {
				state = missing.state
			}
			if (since == "–") != (g.since == "") {
				t.Errorf("%s is %s, and its group is there since %q", name, state, g.since)
			}
			fmt.Fprintf(&rows, "| `%s` | %s | %s | %s |\n", name, g.name, state, since)
		}
	}
	slices.Sort(listed)
	if all := loadModel(t).Operations(); !slices.Equal(listed, all) {
		t.Fatalf("the groups have %d operations, the model has %d", len(listed), len(all))
	}
	fmt.Fprintf(&b, "AWS Transfer Family's API has %d operations. transferd does %d of them, and answers the other %d with an\n"+
		"`InvalidRequestException` that names the operation. This page is made from the code by a test, so that it cannot lie.\n\n", len(listed), done, len(listed)-done)
	b.WriteString("| Operation | Group | State | Since |\n|---|---|---|---|\n")
	b.WriteString(rows.String())
	b.WriteString("\n## Members without effect\n\n" +
		"These members are checked, kept and shown as they were sent, and have no effect, so that tools which set them go on\n" +
		"working. A server that asks for something which this build cannot serve is not among them: it becomes `START_FAILED`,\n" +
		"and its tag `aws:transferd:start-error` says why.\n\n" +
		"| Noun | Member | Why it has no effect |\n|---|---|---|\n")
	for _, k := range keptMembers() {
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", k.noun, k.member, k.why)
	}
	if *update {
		if err := os.WriteFile(operationsPage, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(operationsPage)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, b.Bytes()) {
		t.Errorf("%s is not what the code does: run go test ./server/api -run TestOperationsPage -update", operationsPage)
	}
}

// need is a member of api.Config that an operation cannot do all its work without.
type need struct{ config, state string }

func partial() map[string]need {
	return map[string]need{
		"SendWorkflowStepState": {"Callbacks", "checked, then refused: there are no CUSTOM steps yet that wait for it"},
		"TestIdentityProvider":  {"TestProvider", "checked, then refused: there are no external identity providers yet"},
	}
}

// wiredMembers are the members of api.Config that the daemon sets.
func wiredMembers(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../../cmd/transferd/*.go")
	if err != nil {
		t.Fatal(err)
	}
	wired := map[string]bool{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok || !isConfig(literal.Type) {
				return true
			}
			for _, e := range literal.Elts {
				if pair, ok := e.(*ast.KeyValueExpr); ok {
					wired[fmt.Sprint(pair.Key)] = true
				}
			}
			return true
		})
	}
	if !wired["Servers"] {
		t.Fatal("the search misses where the daemon makes its control plane")
	}
	return wired
}

// isConfig says whether a type is api.Config.
func isConfig(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == "api" && s.Sel.Name == "Config"
}

// does says whether the control plane does an operation, as a caller would find out.
func (w *world) does(t testing.TB, name string) bool {
	t.Helper()
	a := w.call(t, name, `{}`)
	return a.Type != "InvalidRequestException" || a.Message != "Operation "+name+" is not supported yet"
}

// TestKeptMembersAreEchoed: what the page calls kept comes back as it was sent.
func TestKeptMembersAreEchoed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, k := range keptMembers() {
		t.Run(k.noun+"."+k.member, func(t *testing.T) {
			key, sent := w.createKept(t, k, i)
			if k.update != "" {
				id := decode[map[string]string]([]byte(key))["ServerId"]
				w.provide(t, id, "SERVICE_MANAGED", func(s *server.Server) { s.State = server.Offline })
				sent = decode[any]([]byte("{" + k.update + "}"))
				if a := w.call(t, "Update"+k.noun, strings.TrimSuffix(key, "}")+","+k.update+"}"); a.Status != 200 {
					t.Fatalf("%s", a.Body)
				}
			}
			a := w.call(t, "Describe"+k.noun, key)
			want, got := member(sent, k.member), member(decode[any]([]byte(a.Body)), k.noun+"."+k.member)
			if want == nil || !reflect.DeepEqual(got, want) {
				t.Errorf("sent %v, shown %v in %s", want, got, a.Body)
			}
		})
	}
}

// createKept makes a thing that has the member, and returns its key as a JSON object and what was sent.
func (w *world) createKept(t *testing.T, k keptMember, n int) (key string, sent any) {
	t.Helper()
	var body string
	switch k.noun {
	case "Server":
		body = strings.Replace("{"+k.create+"}", "WORKFLOW", w.newWorkflow(t), 1)
	case "User":
		key = fmt.Sprintf(`{"ServerId":"%s","UserName":"user%d"}`, w.newServer(t), n)
	case "Access":
		key = fmt.Sprintf(`{"ServerId":"%s","ExternalId":"S-1-%d"}`, w.newDirectory(t), n)
	}
	if key != "" {
		body = strings.TrimSuffix(key, "}") + `,"Role":"` + role + `"`
		if k.create != "" {
			body += "," + k.create
		}
		body += "}"
	}
	a := w.call(t, "Create"+k.noun, body)
	if a.Status != 200 {
		t.Fatalf("%s: %s", body, a.Body)
	}
	if key == "" {
		key = a.Body
	}
	return key, decode[any]([]byte(body))
}

// member finds a member by its path, which goes through the first element of a list.
func member(v any, path string) any {
	if all, ok := v.([]any); ok && len(all) > 0 {
		v = all[0]
	}
	fields, _ := v.(map[string]any)
	first, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return fields[first]
	}
	return member(fields[first], rest)
}

// TestKeptMembersHaveNoEffect: nobody outside the control plane reads what the page says has no effect. Whoever gives
// such a member an effect takes it off the page.
func TestKeptMembersHaveNoEffect(t *testing.T) {
	t.Parallel()
	carriers := map[string][]string{}
	for _, k := range keptMembers() {
		name := k.member[strings.LastIndex(k.member, ".")+1:]
		carriers[name] = append(carriers[name], k.carry...)
	}
	for file, names := range selectors(t, "../..") {
		for name, allowed := range carriers {
			if names[name] && !slices.Contains(allowed, file) {
				t.Errorf("%s reads %s, which docs/operations.md says has no effect", file, name)
			}
		}
	}
}

// selectors are the names after a dot in the shipped code outside the control plane: cmd wires, the nouns and the
// catalogue keep.
func selectors(t *testing.T, root string) map[string]map[string]bool {
	t.Helper()
	found := map[string]map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() {
			if slices.Contains([]string{"cmd", "server/api", "server/db", "storage"}, name) || strings.HasPrefix(d.Name(), ".") && path != root {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || filepath.ToSlash(filepath.Dir(name)) == "server" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		names := map[string]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			// server.PosixProfile is the noun's type and reads nothing.
			if x, ok := s.X.(*ast.Ident); !ok || x.Name != "server" {
				names[s.Sel.Name] = true
			}
			return true
		})
		found[name] = names
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !found["server/sftpd/auth.go"]["PreAuthenticationLoginBanner"] {
		t.Fatal("the search misses what is known to be read")
	}
	return found
}

// TestEveryOperation calls all operations of the model: those that the service does answer what the model has, and the
// others are refused by name.
func TestEveryOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *api.Config) {
		c.Callbacks = waiting{"token": false}
		c.TestProvider = provider(func(server.Server, identity.Attempt) (api.ProviderAnswer, error) {
			return api.ProviderAnswer{Response: "{}", StatusCode: 200}, nil
		})
	})
	called := w.scenario(t)
	for _, name := range loadModel(t).Operations() {
		if called[name] {
			continue
		}
		for _, body := range []string{`{}`, `{"ServerId":"s-0123456789abcdef0","Nonsense":[1]}`} {
			w.call(t, name, body).refused(t, 400, "InvalidRequestException", "Operation "+name+" is not supported yet")
		}
	}
	if len(called) != 37 {
		t.Errorf("%d operations were called", len(called))
	}
}

// scenario calls every operation that the service does in an order that lets each succeed, and checks the answers.
func (w *world) scenario(t *testing.T) (called map[string]bool) {
	t.Helper()
	called = map[string]bool{}
	rule := judge{t: t, model: loadModel(t)}
	do := func(name, format string, args ...any) map[string]any {
		t.Helper()
		called[name] = true
		body := fmt.Sprintf(format, args...)
		a := w.call(t, name, body)
		if a.Status != 200 {
			t.Fatalf("%s %s: %s", name, body, a.Body)
		}
		rule.check(name, []byte(a.Body))
		if a.Body == "" {
			return nil
		}
		return decode[map[string]any]([]byte(a.Body))
	}
	const steps = `[{"Type":"DELETE","DeleteStepDetails":{}}]`
	flow := do("CreateWorkflow", `{"Steps":%s}`, steps)["WorkflowId"]
	id := do("CreateServer", `{}`)["ServerId"]
	do("DescribeServer", `{"ServerId":"%s"}`, id)
	do("UpdateServer", `{"ServerId":"%s","WorkflowDetails":{"OnUpload":[]}}`, id)
	do("ListServers", `{}`)
	do("StopServer", `{"ServerId":"%s"}`, id)
	w.provide(t, fmt.Sprint(id), "SERVICE_MANAGED", func(s *server.Server) { s.State = server.Offline })
	do("StartServer", `{"ServerId":"%s"}`, id)

	user := fmt.Sprintf(`"ServerId":"%s","UserName":"anna"`, id)
	do("CreateUser", `{%s,"Role":"%s"}`, user, role)
	do("UpdateUser", `{%s,"HomeDirectory":"/bucket"}`, user)
	key := do("ImportSshPublicKey", `{%s,"SshPublicKeyBody":"%s"}`, user, goodKey)["SshPublicKeyId"]
	do("DescribeUser", `{%s}`, user)
	do("ListUsers", `{"ServerId":"%s"}`, id)
	do("DeleteSshPublicKey", `{%s,"SshPublicKeyId":"%s"}`, user, key)
	do("DeleteUser", `{%s}`, user)

	hostKey := fmt.Sprintf(`"ServerId":"%s","HostKeyId":"%s"`, id, do("ImportHostKey", `{"ServerId":"%s","HostKeyBody":"good"}`, id)["HostKeyId"])
	do("UpdateHostKey", `{%s,"Description":"new"}`, hostKey)
	do("DescribeHostKey", `{%s}`, hostKey)
	do("ListHostKeys", `{"ServerId":"%s"}`, id)
	do("DeleteHostKey", `{%s}`, hostKey)

	w.provide(t, fmt.Sprint(id), "AWS_DIRECTORY_SERVICE")
	access := fmt.Sprintf(`"ServerId":"%s","ExternalId":"%s"`, id, group)
	do("CreateAccess", `{%s,"Role":"%s"}`, access, role)
	do("UpdateAccess", `{%s,"HomeDirectory":"/bucket"}`, access)
	do("DescribeAccess", `{%s}`, access)
	do("ListAccesses", `{"ServerId":"%s"}`, id)
	do("DeleteAccess", `{%s}`, access)
	do("TestIdentityProvider", `{%s}`, user)

	do("DescribeWorkflow", `{"WorkflowId":"%s"}`, flow)
	do("ListWorkflows", `{}`)
	running := fmt.Sprintf(`"WorkflowId":"%s","ExecutionId":"%s"`, flow, w.execution(fmt.Sprint(flow), fmt.Sprint(id), 1, false).ExecutionId)
	do("SendWorkflowStepState", `{%s,"Token":"token","Status":"SUCCESS"}`, running)
	do("DescribeExecution", `{%s}`, running)
	do("ListExecutions", `{"WorkflowId":"%s"}`, flow)

	do("ListSecurityPolicies", `{}`)
	do("DescribeSecurityPolicy", `{"SecurityPolicyName":"%s"}`, server.DefaultSecurityPolicy)

	arn := fmt.Sprintf(`"Arn":"arn:aws:transfer:%s:%s:server/%s"`, region, account, id)
	do("TagResource", `{%s,"Tags":[{"Key":"a","Value":"b"}]}`, arn)
	do("ListTagsForResource", `{%s}`, arn)
	do("UntagResource", `{%s,"TagKeys":["a"]}`, arn)
	do("DeleteServer", `{"ServerId":"%s"}`, id)
	do("DeleteWorkflow", `{"WorkflowId":"%s"}`, flow)
	return called
}

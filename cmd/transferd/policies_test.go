package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
)

// policyExample is an example of docs/policies.md: a policy, and what a client may do with it.
type policyExample struct {
	title, policy string
	tries         []policyTry
}

type policyTry struct {
	operation, path, to string
	allowed             bool
}

func policyExamples(t *testing.T) (all []policyExample) {
	t.Helper()
	page, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(\\w+) (\\S+)(?: to (\\S+))?` \\| (yes|no) \\|$")
	for _, section := range strings.Split(string(page), "\n### ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		_, after, _ := strings.Cut(text, "```json\n")
		policy, table, found := strings.Cut(after, "```")
		e := policyExample{title: title, policy: policy}
		for _, r := range row.FindAllStringSubmatch(table, -1) {
			mine := strings.NewReplacer("example-bucket", devBucket)
			e.tries = append(e.tries, policyTry{r[1], mine.Replace(r[2]), mine.Replace(r[3]), r[4] == "yes"})
		}
		if !found || len(e.tries) == 0 {
			t.Fatalf("%s: no policy or no table", title)
		}
		all = append(all, e)
	}
	return all
}

// TestPolicies lets OpenSSH's sftp try what the tables of docs/policies.md say of their policies; transferd explain must
// say the same.
func TestPolicies(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	key, err := os.ReadFile(p.env["SFTP_KEY"] + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	p.putObject("else/x.csv")
	for i, e := range policyExamples(t) {
		user := fmt.Sprintf("user%d", i)
		if _, err := p.api().CreateUser(t.Context(), &transfer.CreateUserInput{
			ServerId: aws.String(p.env["SERVER_ID"]), UserName: &user, Role: aws.String(devRole), HomeDirectory: aws.String("/" + devBucket + "/" + user),
			SshPublicKeyBody: aws.String(string(key)), Policy: &e.policy,
		}); err != nil {
			t.Fatalf("%s: %v", e.title, err)
		}
		for _, name := range []string{"a.csv", "reports/b.csv", "empty/"} {
			p.putObject(user + "/" + name)
		}
		for _, try := range e.tries {
			p.tryPolicy(t, e.title, user, try)
		}
	}
}

func (p *proc) putObject(key string) {
	p.t.Helper()
	body := strings.NewReader("12345")
	if strings.HasSuffix(key, "/") {
		body.Reset("")
	}
	if _, err := p.s3().PutObject(p.t.Context(), &s3.PutObjectInput{Bucket: aws.String(devBucket), Key: &key, Body: body}); err != nil {
		p.t.Fatal(err)
	}
}

// tree is all that the bucket holds.
func (p *proc) tree() string {
	p.t.Helper()
	var b strings.Builder
	pages := s3.NewListObjectsV2Paginator(p.s3(), &s3.ListObjectsV2Input{Bucket: aws.String(devBucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		for _, o := range page.Contents {
			fmt.Fprintln(&b, aws.ToString(o.Key), aws.ToString(o.ETag))
		}
	}
	return b.String()
}

func (p *proc) tryPolicy(t *testing.T, title, user string, try policyTry) {
	t.Helper()
	dir := t.TempDir()
	local := filepath.Join(dir, "local")
	if err := os.WriteFile(local, []byte("12345 and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	batch := map[string]string{
		"put": "put '" + local + "' " + try.path, "append": "reput '" + local + "' " + try.path, "get": "get " + try.path + " '" + filepath.Join(dir, "got") + "'",
		"list": "ls -la " + try.path, "stat": "ls -la " + try.path, "mkdir": "mkdir " + try.path, "delete": "rm " + try.path, "rmdir": "rmdir " + try.path,
		"rename": "rename " + try.path + " " + try.to,
	}[try.operation]
	before := p.tree()
	out, err := p.sftpCommand(t.Context(), user, batch+"\n").CombinedOutput()
	changed := p.tree() != before
	if (err == nil) != try.allowed {
		t.Errorf("%s: %+v: %v\n%s", title, try, err, out)
	}
	if looks := try.operation == "get" || try.operation == "list" || try.operation == "stat"; changed != (try.allowed && !looks) {
		t.Errorf("%s: %+v: the bucket has changed: %v", title, try, changed)
	}
	if strings.Contains(strings.ToLower(string(out)), "policy") || strings.Contains(string(out), "arn:") {
		t.Errorf("%s: %+v: the client is told %q", title, try, out)
	}
	answer, err := askExplain(t.Context(), strings.TrimSuffix(p.env["METRICS_URL"], "/metrics")+"/debug/explain", explainQuestion{
		ServerId: serverID(p.env["SERVER_ID"]), UserName: user, Operation: try.operation, Path: try.path, To: try.to, SourceIp: "127.0.0.1",
	})
	// The directory of "rename reports to mine" is denied by what is in it, and explain does not look.
	if directory := try.operation == "rename" && !strings.Contains(try.path, "."); err != nil || answer.Allowed != (try.allowed || directory) {
		t.Errorf("%s: %+v: explained %+v, %v", title, try, answer, err)
	}
}

// TestDropbox: users who may only upload do so with clients that look before they write, an empty file too, and what was
// there is written over unseen.
func TestDropbox(t *testing.T) {
	t.Parallel()
	const drop = `{"Statement":{"Effect":"Allow","Action":"s3:PutObject","Resource":"*"}}`
	users := usersFile(t, "right pass")
	content, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(users, append(content, "    policy: '"+drop+"'\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startDaemon(t, startOptions{args: []string{"-users", users}})
	if _, err := p.api().UpdateUser(t.Context(), &transfer.UpdateUserInput{
		ServerId: aws.String(p.env["SERVER_ID"]), UserName: aws.String(p.env["SFTP_USER"]), Policy: aws.String(drop),
	}); err != nil {
		t.Fatal(err)
	}
	p.putObject("there")
	large, content := file(t, 100_000)
	empty, _ := file(t, 0)
	for _, c := range []struct {
		name, local string
		command     []string
	}{
		{"there", large, append(append([]string{"scp"}, p.scpOptions()...), large, p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"]+":/there")},
		{"scp", large, append(append([]string{"scp"}, p.scpOptions()...), large, p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"]+":/scp")},
		{"scp-empty", empty, append(append([]string{"scp"}, p.scpOptions()...), empty, p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"]+":/scp-empty")},
		{"carol/curl", large, []string{"curl", "-sS", "--ssl-reqd", "-k", "--max-time", "60", "-u", "carol:right pass", "-T", large,
			"ftp://" + net.JoinHostPort("127.0.0.1", p.env["FTP_PORT"]) + "/curl"}},
		{"carol/sub/curl", large, []string{"curl", "-sS", "--ssl-reqd", "-k", "--max-time", "60", "-u", "carol:right pass", "-T", large, "--ftp-method", "nocwd",
			"ftp://" + net.JoinHostPort("127.0.0.1", p.env["FTP_PORT"]) + "/sub/curl"}},
	} {
		out, err := exec.CommandContext(t.Context(), c.command[0], c.command[1:]...).CombinedOutput()
		want := content
		if c.local == empty {
			want = nil
		}
		if got := p.object(c.name); err != nil || !bytes.Equal(got, want) || got == nil {
			t.Errorf("%s: %v, %s\n%s", c.name, err, sum(got), out)
		}
	}
}

// scpOptions are sshOptions for scp.
func (p *proc) scpOptions() []string { return p.sshOptions("-q") }

// TestExplain: the command's exit statuses, and users that an identity provider alone knows.
func TestExplain(t *testing.T) {
	t.Parallel()
	users := usersFile(t, "right pass")
	p := startDaemon(t, startOptions{args: []string{"-users", users}})
	content, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	limited := string(content) + "    policy: '" + `{"Version":"2012-10-17","Statement":{"Sid":"Look","Effect":"Allow","Action":"s3:ListBucket","Resource":"*"}}` + "'\n"
	if err := replaceFile(users, []byte(limited), 0o600); err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(t.TempDir(), "password")
	guess := password + ".wrong"
	for name, text := range map[string]string{password: "right pass\n", guess: "guess"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dev, ftp := []string{"-server", p.env["SERVER_ID"], "-user", p.env["SFTP_USER"]}, []string{"-server", p.env["FTP_SERVER_ID"], "-user", "carol"}
	for _, c := range []struct {
		who  []string
		args string
		code int
		want string
	}{
		{dev, "-op put -path x.csv", 0, "allowed: put /x.csv (/" + devBucket + "/x.csv)"},
		{dev, "-op delete -path /", 1, "it cannot be taken away"},
		{dev, "-op chmod -path x.csv", 2, "-op must be one of put,"},
		{dev, "-op rename -path x.csv", 2, "-to belongs to -op rename"},
		{dev, "-op put", 2, "are needed"},
		{dev, "-op put -path x.csv -source-ip here", 2, "-source-ip must be an address"},
		{[]string{"-server", "s-00000000000000000", "-user", "anna"}, "-op get -path x", 3, "there is no server s-00000000000000000"},
		{append(dev[:2:2], "-user", "nobody"), "-op get -path x", 3, "there is no user nobody"},
		{ftp, "-op get -path x", 3, "known to its identity provider (API_GATEWAY) alone"},
		{ftp, "-op get -path x -url http://127.0.0.1:1", 3, "connection refused"},
		{ftp, "-op get -path x -password-file " + guess, 1, "the identity provider does not let the user in"},
		{ftp, "-op list -path . -password-file " + password, 0, "allowed by Statement[0] (Sid Look)"},
		{ftp, "-op get -path x -password-file " + password, 1, "s3:GetObject on arn:aws:s3:::" + devBucket + "/carol/x: denied: no statement allows it"},
	} {
		args := append(append([]string{"explain"}, c.who...), strings.Fields(c.args)...)
		if c.code == 0 && c.who[3] == "carol" { // the users file is read again soon
			p.await("the policy", func() bool { out, _, _ := p.transferd(args...); return strings.Contains(out, "Sid Look") })
		}
		out, errs, code := p.transferd(args...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("transferd %s: status %d, want %d and %q\n%s%s", strings.Join(args, " "), code, c.code, c.want, out, errs)
		}
	}
	out, _, _ := p.transferd(append([]string{"explain", "-json", "-op", "get", "-path", "x", "-password-file", password}, ftp...)...)
	var answer explainAnswer
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Allowed || answer.At != "/"+devBucket+"/carol/x" || len(answer.Rules) != 2 {
		t.Errorf("--json: %v\n%s", err, out)
	}
	if bans := p.metric("transferd_login_delayed_total"); bans != 0 {
		t.Errorf("explain counts as failed logins")
	}
	p.policyOverFTP(password)
}

// policyOverFTP: carol may list, and the rest is 550.
func (p *proc) policyOverFTP(file string) {
	p.t.Helper()
	curl := func(args ...string) (string, error) {
		home := "ftp://" + net.JoinHostPort("127.0.0.1", p.env["FTP_PORT"]) + "/"
		args = append([]string{"-sS", "-v", "--ssl-reqd", "-k", "--max-time", "60", "-u", "carol:right pass", home}, args...)
		out, err := exec.CommandContext(p.t.Context(), "curl", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := curl(); err != nil {
		p.t.Errorf("list: %v\n%s", err, out)
	}
	if out, err := curl("-T", file); err == nil || !strings.Contains(out, "< 550 ") || strings.Contains(strings.ToLower(out), "policy") {
		p.t.Errorf("upload: %v\n%s", err, out)
	}
	if out, err := curl("-Q", "-MKD /"+devBucket+"/carol/new"); err == nil || !strings.Contains(out, "< 550 ") {
		p.t.Errorf("mkdir: %v\n%s", err, out)
	}
}

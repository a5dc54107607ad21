package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/transferd/transferd/cmd/transferd/internal/doctor"
)

// TestDevUsers: `transferd dev -users FILE` lets the file's users in and no others, TestIdentityProvider says what the
// file says, and the certificate is for the address that the server listens on, also when that changes.
func TestDevUsers(t *testing.T) {
	t.Parallel()
	const right = "right pass"
	users := usersFile(t, right)
	p := startDaemon(t, startOptions{args: []string{"-users", users, "-ftp", "127.0.0.3:0"}})
	if p.env["FTP_PASSWORD"] != "" || p.env["FTP_USER"] != "" {
		t.Error("dev.env names a user who is not in the file")
	}
	ask := func(password string) map[string]any {
		return p.aws("test-identity-provider", "--server-id", p.env["FTP_SERVER_ID"], "--user-name", "carol",
			"--user-password", password, "--server-protocol", "FTPS", "--source-ip", "192.0.2.1")
	}
	granted := ask(right)
	if text := fmt.Sprint(granted["Response"]); granted["StatusCode"] != 200.0 || !strings.Contains(text, devRole) || !strings.Contains(text, "/"+devBucket+"/carol") {
		t.Errorf("TestIdentityProvider: %v", granted)
	}
	if refused := ask("guess"); strings.Contains(fmt.Sprint(refused), devRole) {
		t.Errorf("TestIdentityProvider with a wrong password: %v", refused)
	}
	ftp := net.JoinHostPort("127.0.0.3", p.env["FTP_PORT"])
	if err := ftpLogin(ftp, right); err != nil {
		t.Errorf("the file's user: %v", err)
	}
	if err := ftpLogin(ftp, "guess"); err == nil {
		t.Error("a wrong password is let in")
	}
	names := func(address string) {
		t.Helper()
		out, errs, _ := p.transferd("doctor", "ftp", address, "-ca-file", filepath.Join(p.data, "ftp.crt"), "--json", "-timeout", patience.String())
		if r := readReport(t, out); !r.find("certificate: names", doctor.OK, "") || !r.find("certificate: chain", doctor.OK, "") {
			t.Errorf("the certificate at %s: %+v %s", address, r.Findings, errs)
		}
	}
	names(ftp)
	p.stop()
	p = startDaemon(t, startOptions{data: p.data, args: []string{"-users", users, "-ftp", "127.0.0.4:0"}})
	names(net.JoinHostPort("127.0.0.4", p.env["FTP_PORT"]))
}

// TestSignedProvider: requests to an API_GATEWAY provider are signed with the access key of its InvocationRole, and are
// not if the configuration has none for it.
func TestSignedProvider(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var signatures []string
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		signatures = append(signatures, r.Header.Get("Authorization")+" "+r.Header.Get("X-Amz-Security-Token"))
		_, _ = fmt.Fprintf(w, `{"Role":%q,"HomeDirectory":"/%s"}`, devRole, devBucket) // a client that went away has failed already
	}))
	t.Cleanup(far.Close)
	const known = "arn:aws:iam::111122223333:role/identity"
	p, _ := startServe(t, "roles: {\""+known+"\": {access_key: AKIAROLE, secret_key: rolesecret, session_token: roletoken}}\n")
	for role, want := range map[string]string{known: "AWS4-HMAC-SHA256 Credential=AKIAROLE/", devRole: " "} {
		id := p.aws("create-server", "--identity-provider-type", "API_GATEWAY", "--identity-provider-details", "Url="+far.URL+"/prod,InvocationRole="+role)["ServerId"].(string)
		answer := p.aws("test-identity-provider", "--server-id", id, "--user-name", "carol", "--user-password", "pw", "--server-protocol", "SFTP")
		mu.Lock()
		if answer["StatusCode"] != 200.0 || len(signatures) != 1 || !strings.HasPrefix(signatures[0], want) {
			t.Errorf("%s: %v, signed %q", role, answer, signatures)
		} else if role == known && (!strings.Contains(signatures[0], "/us-east-1/execute-api/aws4_request") || !strings.HasSuffix(signatures[0], " roletoken")) {
			t.Errorf("signed %q", signatures[0])
		}
		signatures = nil
		mu.Unlock()
	}
}

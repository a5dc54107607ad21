package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// lender is an STS that lends the store's own credentials, or refuses.
type lender struct {
	*httptest.Server

	mu    sync.Mutex
	lends bool
	asked []url.Values
}

const refusedRole = "User: arn:aws:iam::111122223333:user/daemon is not authorized to perform: sts:AssumeRole"

func newLender(t *testing.T) *lender {
	t.Helper()
	l := &lender{}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *lender) lend(lends bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lends = lends
}

// sessions are the names of the sessions for which it was asked.
func (l *lender) sessions() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, form := range l.asked {
		names = append(names, form.Get("RoleSessionName"))
	}
	return strings.Join(names, " ")
}

// ServeHTTP answers as https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html has it.
func (l *lender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	l.asked = append(l.asked, r.PostForm)
	lends := l.lends
	l.mu.Unlock()
	if !lends {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>%s</Message></Error></ErrorResponse>`, refusedRole)
		return
	}
	fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>storekey</AccessKeyId><SecretAccessKey>storesecret</SecretAccessKey><SessionToken></SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

// TestRefusedRole: who may not have the role does not get in, over SFTP and FTP, learns nothing of it, and the log says
// why. As soon as the role is lent, the same login works.
func TestRefusedRole(t *testing.T) {
	t.Parallel()
	const right = "right pass"
	sts := newLender(t)
	p, _ := startServe(t, fmt.Sprintf(bansConfig, usersFile(t, right)), fmt.Sprintf("roles: {%q: {assume_role: {sts_endpoint: %q}}}\n", devRole, sts.URL))
	_, ftp := p.passwordServer()
	id := p.aws("create-server")["ServerId"].(string)
	p.await("the server is ONLINE", func() bool { return p.server(id)["State"] == "ONLINE" })
	p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(p.tag(id, "aws:transferd:sftp-address"))
	p.addUser(id, "alice", "/"+devBucket+"/alice")
	local, _ := file(t, 1000)
	clients := map[string]func() (string, error){
		"OpenSSH": func() (string, error) {
			out, err := p.sftpCommand(t.Context(), "alice", "put \""+local+"\" a.bin\n").CombinedOutput()
			return string(out), err
		},
		"curl": func() (string, error) {
			out, err := exec.CommandContext(t.Context(), "curl", "-sS", "-v", "--max-time", "60", "-u", "carol:"+right, "-T", local, "ftp://"+ftp+"/c.bin").CombinedOutput()
			return string(out), err
		},
	}
	for name, login := range clients {
		out, err := login()
		if err == nil {
			t.Errorf("%s got in:\n%s", name, out)
		}
		for _, word := range []string{"arn:", "role", "sts", "authorized to perform", "AccessDenied", sts.URL} {
			if strings.Contains(strings.ToLower(out), strings.ToLower(word)) {
				t.Errorf("%s is told of %q:\n%s", name, word, out)
			}
		}
	}
	for _, user := range []string{"alice", "carol"} {
		if !strings.Contains(sts.sessions(), user+".") {
			t.Errorf("the STS was asked for %s, not for a session of %s", sts.sessions(), user)
		}
		p.await("the reason in the log for "+user, func() bool { return p.loggedReason(user) })
	}
	sts.lend(true)
	for name, login := range clients {
		if out, err := login(); err != nil {
			t.Errorf("%s with the role: %v\n%s", name, err, out)
		}
	}
	p.stop()
}

// loggedReason says whether the log tells of a user that the role was refused.
func (p *proc) loggedReason(user string) bool {
	p.t.Helper()
	text, err := os.ReadFile(p.data + "/transferd.log")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, refusedRole) && strings.Contains(line, devRole) && strings.Contains(line, user) {
			return true
		}
	}
	return false
}

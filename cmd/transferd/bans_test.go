package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/textproto"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/identity/usersfile"
)

// badLogins is how many wrong passwords TestBans sends; the number is 10000.
var badLogins = flag.Int("bad-logins", 200, "how many wrong passwords TestBans sends")

const bansConfig = `
ftp: {host: 127.0.0.1, ports: 0, passive_ports: 0, login_delay: 1ms}
identity:
  users_file: %s
  guard: {delay_after: 5, delay: 1ms, max_delay: 20ms, ban_after: 30, ban_for: 1h}
`

// usersFile makes a users file of one user, carol, with this password.
func usersFile(t *testing.T, password string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "users.yaml")
	content := fmt.Sprintf("role: %s\nusers:\n  - name: carol\n    password_hash: %s\n    home_directory: /%s/carol\n",
		devRole, usersfile.HashPassword(password), devBucket)
	if err := replaceFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// passwordServer makes a server for SFTP and FTP with the users file, and gives its addresses.
func (p *proc) passwordServer() (sftp, ftp string) {
	p.t.Helper()
	id := p.aws("create-server", "--protocols", "SFTP", "FTP", "--endpoint-type", "VPC",
		"--endpoint-details", "VpcId=vpc-0123456789abcdef0,SubnetIds=subnet-0123456789abcdef0",
		"--identity-provider-type", "API_GATEWAY", "--identity-provider-details", "Url="+usersfile.URL+",InvocationRole="+devRole)["ServerId"].(string)
	p.await("the server is ONLINE", func() bool { return p.server(id)["State"] == "ONLINE" })
	return p.tag(id, "aws:transferd:sftp-address"), p.tag(id, "aws:transferd:ftp-address")
}

// TestBans: wrong passwords from one address over SFTP and FTP, up to 10,000, slow down and end in a ban that the
// operator sees in transferd bans and in the metrics, and lifts with transferd unban; then the right password works.
func TestBans(t *testing.T) {
	t.Parallel()
	const right = "right pass"
	p, _ := startServe(t, fmt.Sprintf(bansConfig, usersFile(t, right)))
	sftp, ftp := p.passwordServer()
	if err := sshLogin(sftp, right); err != nil {
		t.Fatalf("before: %v", err)
	}
	if bans := p.bans(); len(bans) != 0 {
		t.Fatalf("bans before anything: %v", bans)
	}
	var left, denied atomic.Int64
	left.Store(int64(*badLogins))
	var wg sync.WaitGroup
	for i := range 8 {
		login, addr := sshLogin, sftp
		if i%2 == 1 {
			login, addr = ftpLogin, ftp
		}
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				switch err := login(addr, "guess"); {
				case err == nil:
					t.Error("a wrong password is let in")
				case errors.Is(err, errWrongPassword):
					denied.Add(1)
				}
			}
		})
	}
	wg.Wait()
	dropped, delayed := p.metric("transferd_login_banned_connections_total"), p.metric("transferd_login_delayed_total")
	t.Logf("%d wrong passwords: %d answered, %.0f of them late; %.0f connections closed unseen", *badLogins, denied.Load(), delayed, dropped)
	if p.metric("transferd_login_bans_total") != 1 || p.metric("transferd_login_banned_addresses") != 1 || delayed == 0 || dropped == 0 {
		t.Errorf("metrics: %v bans, %v delayed, %v dropped", p.metric("transferd_login_bans_total"), delayed, dropped)
	}
	bans := p.bans()
	if len(bans) != 1 || bans[0].Address != "127.0.0.1" || bans[0].Failures < 30 || !bans[0].Until.After(time.Now().Add(30*time.Minute)) {
		t.Fatalf("bans %+v", bans)
	}
	if table, _, _ := p.transferd("bans"); !strings.Contains(table, "127.0.0.1") || strings.Count(table, "\n") != 2 {
		t.Errorf("transferd bans prints\n%s", table)
	}
	for what, err := range map[string]error{"SFTP": sshLogin(sftp, right), "FTP": ftpLogin(ftp, right)} {
		if err == nil {
			t.Errorf("the right password is let in over %s from a banned address", what)
		}
	}

	for _, c := range []struct {
		address, want string
		code          int
	}{
		{"192.0.2.1", "there is no ban of 192.0.2.1", 1}, {"nonsense", "is no address", 1}, {"127.0.0.1", "is lifted", 0}, {"127.0.0.1", "there is no ban", 1},
	} {
		if out, errs, code := p.transferd("unban", c.address); code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("transferd unban %s: status %d, %s%s; want %d and %q", c.address, code, out, errs, c.code, c.want)
		}
	}
	if len(p.bans()) != 0 {
		t.Errorf("a lifted ban is shown: %v", p.bans())
	}
	if err := sshLogin(sftp, right); err != nil {
		t.Errorf("SFTP after the ban: %v", err)
	}
	if err := ftpLogin(ftp, right); err != nil {
		t.Errorf("FTP after the ban: %v", err)
	}
	name, content := file(t, 1000)
	if out, err := exec.CommandContext(t.Context(), "curl", "-sS", "-T", name, "-u", "carol:"+right, "ftp://"+ftp+"/a.bin").CombinedOutput(); err != nil {
		t.Errorf("curl after the ban: %v\n%s", err, out)
	}
	stored := &proc{t: t, env: map[string]string{
		"AWS_ACCESS_KEY_ID": "storekey", "AWS_SECRET_ACCESS_KEY": "storesecret", "AWS_REGION": "us-east-1", "S3_ENDPOINT": p.env["S3_ENDPOINT"],
	}}
	if got := stored.object("carol/a.bin"); !bytes.Equal(got, content) {
		t.Errorf("the object is %s", sum(got))
	}
}

// TestUnbanUsage: a command line that is not understood has status 2.
func TestUnbanUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"unban"}, {"unban", "192.0.2.1", "192.0.2.2"}, {"bans", "192.0.2.1"}, {"unban", "-nonsense", "192.0.2.1"}} {
		var out bytes.Buffer
		if code := run(t.Context(), process{stdout: &out, stderr: &out}, args); code != 2 {
			t.Errorf("%v: status %d\n%s", args, code, out.String())
		}
	}
}

// errWrongPassword says that the server answered, and said no.
var errWrongPassword = errors.New("wrong password")

func sshLogin(addr, password string) error {
	c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "carol", Auth: []ssh.AuthMethod{ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: patience,
	})
	if err != nil {
		if strings.Contains(err.Error(), "unable to authenticate") {
			return errWrongPassword
		}
		return err
	}
	return c.Close()
}

func ftpLogin(addr, password string) error {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	c := textproto.NewConn(conn)
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	if err := c.PrintfLine("USER carol"); err != nil {
		return err
	}
	if _, _, err := c.ReadResponse(331); err != nil {
		return err
	}
	if err := c.PrintfLine("PASS %s", password); err != nil {
		return err
	}
	_, _, err = c.ReadResponse(230)
	var refused *textproto.Error
	if errors.As(err, &refused) && refused.Code == 530 {
		return errWrongPassword
	}
	return err
}

func (p *proc) bans() []banView {
	p.t.Helper()
	out, errs, code := p.transferd("bans", "--json")
	var bans []banView
	if err := json.Unmarshal([]byte(out), &bans); err != nil || code != 0 {
		p.t.Fatalf("transferd bans --json: status %d, %v\n%s%s", code, err, out, errs)
	}
	return bans
}

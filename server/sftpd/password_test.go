package sftpd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/sftpd"
)

const password = "correct horse"

// custom is an identity provider of one's own with one user, who has a key and a password. What it grants says how it
// was asked.
type custom struct {
	key ssh.PublicKey

	mu    sync.Mutex
	asked []string // key or password, as they came
}

func (c *custom) Authenticate(_ context.Context, a identity.Attempt) (identity.Grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind, right := "password", a.Password == password
	if len(a.PublicKey) > 0 {
		kind, right = "key", a.Password == "" && bytes.Equal(a.PublicKey, c.key.Marshal())
	}
	c.asked = append(c.asked, kind)
	switch {
	case a.Password == "away":
		return identity.Grant{}, errors.New("provider is away")
	case !right || a.UserName != user || a.Server != "s-1" || a.Protocol != "SFTP" || a.SourceIP != "127.0.0.1":
		return identity.Grant{}, identity.ErrDenied
	}
	return identity.Grant{UserName: user, Role: "arn:aws:iam::123456789012:role/" + kind, HomeDirectory: "/bucket/home"}, nil
}

// seen are the questions since the last time.
func (c *custom) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// newPasswordRig is a server of an API_GATEWAY provider with these SftpAuthenticationMethods.
func newPasswordRig(t *testing.T, methods string) (*rig, *custom) {
	t.Helper()
	p := &custom{}
	r := newRig(t, func(r *rig, c *sftpd.Config) {
		p.key, c.Provider = r.key.PublicKey(), p
		r.settings.Server.IdentityProviderType = "API_GATEWAY"
		r.settings.Server.IdentityProviderDetails = &server.IdentityProviderDetails{SftpAuthenticationMethods: methods}
	})
	return r, p
}

// try logs in with some methods and says what it was told if that did not work.
func (r *rig) try(t *testing.T, name string, methods ...ssh.AuthMethod) error {
	t.Helper()
	conn := r.tcp(t)
	c, _, _, err := ssh.NewClientConn(conn, r.addr, &ssh.ClientConfig{User: name, Auth: methods, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return err
	}
	return c.Close()
}

// TestMethods: who gets in with what, by SftpAuthenticationMethods.
func TestMethods(t *testing.T) {
	t.Parallel()
	for methods, lets := range map[string]string{ // key, password, key then password
		"PASSWORD": ".+.", "PUBLIC_KEY": "+..", "PUBLIC_KEY_OR_PASSWORD": "++.", "": "++.", "PUBLIC_KEY_AND_PASSWORD": "..+",
	} {
		t.Run(methods, func(t *testing.T) {
			t.Parallel()
			r, p := newPasswordRig(t, methods)
			other, _ := newKey(t)
			key, pass := ssh.PublicKeys(r.key), ssh.Password(password)
			for i, c := range [][]ssh.AuthMethod{{key}, {pass}} {
				if err := r.try(t, user, c...); (err == nil) != (lets[i] == '+') {
					t.Errorf("method %d: %v, want %c", i, err, lets[i])
				}
			}
			p.seen()
			if err := r.try(t, user, key, pass); err != nil {
				t.Errorf("both: %v", err)
			}
			if both := strings.Join(p.seen(), " "); (both == "key password") != (lets[2] == '+') {
				t.Errorf("both: the provider was asked for %s", both)
			}
			for what, c := range map[string][]ssh.AuthMethod{
				"wrong password": {ssh.Password("guess")}, "other key": {ssh.PublicKeys(other)},
				"other key, right password": {ssh.PublicKeys(other), pass}, "right key, wrong password": {key, ssh.Password("guess")},
				"provider away": {ssh.Password("away")}, "nothing": nil, "no password": {ssh.Password("")},
			} {
				in := what == "other key, right password" && lets[1] == '+' || what == "right key, wrong password" && lets[0] == '+'
				if err := r.try(t, user, c...); (err == nil) != in {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := r.try(t, strings.Repeat("x", 200), key, pass); err == nil {
				t.Error("a long name is let in")
			}
		})
	}
}

// TestMethodsByType: without a provider of one's own there are keys alone, with a directory passwords alone; a value that
// nobody knows lets nobody in.
func TestMethodsByType(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, methods string
		key, password bool
	}{
		{"", "", true, false}, {"SERVICE_MANAGED", "PASSWORD", true, false}, {"AWS_DIRECTORY_SERVICE", "", false, true},
		{"AWS_LAMBDA", "", true, true}, {"API_GATEWAY", "SOMETHING", false, false},
	} {
		r, _ := newPasswordRig(t, c.methods)
		r.change(func(s *server.Server) { s.IdentityProviderType = c.kind })
		if err := r.try(t, user, ssh.PublicKeys(r.key)); (err == nil) != c.key {
			t.Errorf("%+v: key: %v", c, err)
		}
		if err := r.try(t, user, ssh.Password(password)); (err == nil) != c.password {
			t.Errorf("%+v: password: %v", c, err)
		}
	}
}

// TestPasswordLog: who was refused with a password stands in the log in AWS's words, and no password does.
func TestPasswordLog(t *testing.T) {
	t.Parallel()
	r, _ := newPasswordRig(t, "PUBLIC_KEY_AND_PASSWORD")
	if err := r.try(t, user, ssh.PublicKeys(r.key), ssh.Password("s3cr3t guess")); err == nil {
		t.Fatal("let in")
	}
	refused := r.log.Entries("AUTH_FAILURE")
	if len(refused) != 1 || refused[0]["message"] != "Invalid user name or password" || refused[0]["method"] != "password" || refused[0]["user"] != user {
		t.Errorf("entries %v", refused)
	}
	client, err := ssh.Dial("tcp", r.addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key), ssh.Password(password)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	entry := r.log.Await(t, "CONNECTED")
	if role := "arn:aws:iam::123456789012:role/password"; entry["role"] != role || entry["ssh-public-key-fingerprint"] != ssh.FingerprintSHA256(r.key.PublicKey()) {
		t.Errorf("entry %v", entry)
	}
	if text := r.log.String(); strings.Contains(text, "s3cr3t") || strings.Contains(text, password) {
		t.Errorf("a password is in the log: %s", text)
	}
}

// TestPasswordClients: OpenSSH and lftp log in by password, and with key and password.
func TestPasswordClients(t *testing.T) {
	t.Parallel()
	data := doortest.Random(100_000)
	for _, methods := range []string{"PASSWORD", "PUBLIC_KEY_OR_PASSWORD", "PUBLIC_KEY_AND_PASSWORD"} {
		t.Run(methods, func(t *testing.T) {
			t.Parallel()
			r, _ := newPasswordRig(t, methods)
			file := doortest.File(t, data)
			host, port := r.hostPort(t)
			keys := "PubkeyAuthentication=no"
			if methods == "PUBLIC_KEY_AND_PASSWORD" {
				keys = "PubkeyAuthentication=yes"
			}
			if out, err := r.askpass(t, "put "+file+" openssh\n", password, keys); err != nil {
				t.Errorf("OpenSSH: %v\n%s", err, out)
			}
			if out, err := r.askpass(t, "put "+file+" wrong\n", "guess", keys); err == nil {
				t.Errorf("OpenSSH is let in with a wrong password: %s", out)
			}
			options := "-a -x"
			if methods == "PUBLIC_KEY_AND_PASSWORD" {
				options += " -i " + r.keyFile
			}
			script := "set sftp:auto-confirm yes; set net:max-retries 1; set sftp:connect-program 'ssh " + options +
				" -F none -oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null -oIdentityAgent=none'; put " + file + " -o lftp; bye"
			if out, err := doortest.Run(t, "", "lftp", "-u", user+","+password, "-p", port, "-e", script, "sftp://"+host); err != nil {
				t.Errorf("lftp: %v\n%s", err, out)
			}
			for _, name := range []string{"openssh", "lftp"} {
				if got := r.store.Get("home/" + name); !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes of %d", name, len(got), len(data))
				}
			}
		})
	}
}

// askpass runs OpenSSH's sftp with a password that a program tells it, as there is no terminal.
func (r *rig) askpass(t *testing.T, batch, secret, option string) (string, error) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "askpass")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho '"+secret+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	host, port := r.hostPort(t)
	args := append(r.sshOptions("NumberOfPasswordPrompts=1", option), "-b", "-", "-P", port, user+"@"+host)
	args = append([]string{"-oBatchMode=no"}, args...) // the first value counts
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sftp", args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=", "SSH_ASKPASS="+program, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:none")
	cmd.Stdin = strings.NewReader(batch)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

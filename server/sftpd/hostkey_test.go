package sftpd_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
)

// hostKey makes a host key of a type, imported so many minutes after the others.
func hostKey(t *testing.T, kind string, minutes int) hostkeys.Key {
	t.Helper()
	file := filepath.Join(t.TempDir(), "host")
	if out, err := doortest.Run(t, "", "ssh-keygen", append(strings.Fields(kind), "-q", "-N", "", "-f", file)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := hostkeys.Parse(body, "", time.Now().Add(time.Duration(minutes)*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func blob(t *testing.T, key hostkeys.Key) []byte {
	t.Helper()
	signer, err := key.Signer(false)
	if err != nil {
		t.Fatal(err)
	}
	return signer.PublicKey().Marshal()
}

func (r *rig) setHostKeys(keys ...hostkeys.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settings.HostKeys = keys
}

// TestRotation is how an operator changes host keys under real clients: import new ones, wait until the clients have
// learned them, delete the old ones.
func TestRotation(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, next []string
		options   []string // of the client
		policy    string
	}{
		"Ed25519 to Ed25519":         {old: []string{"-t ed25519"}, next: []string{"-t ed25519"}},
		"RSA to RSA, SHA-512":        {old: []string{"-t rsa -b 2048"}, next: []string{"-t rsa -b 3072"}, options: []string{"HostKeyAlgorithms=rsa-sha2-512"}},
		"RSA to RSA, SHA-256":        {old: []string{"-t rsa -b 2048"}, next: []string{"-t rsa -b 2048"}, options: []string{"HostKeyAlgorithms=rsa-sha2-256"}},
		"Ed25519 to all":             {old: []string{"-t ed25519"}, next: []string{"-t rsa -b 2048", "-t ecdsa -b 256", "-t ecdsa -b 384", "-t ecdsa -b 521"}},
		"RSA to others":              {old: []string{"-t rsa -b 4096"}, next: []string{"-t ecdsa -b 521", "-t ed25519"}},
		"RSA to RSA, SHA-1 (policy)": {old: []string{"-t rsa -b 2048"}, next: []string{"-t rsa -b 2048"}, options: []string{"HostKeyAlgorithms=ssh-rsa", "CASignatureAlgorithms=ssh-rsa"}, policy: "TransferSecurityPolicy-2018-11"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if c.policy != "" {
				r.change(func(s *server.Server) { s.SecurityPolicyName = c.policy })
			}
			var old, all []hostkeys.Key
			for _, kind := range c.old {
				old = append(old, hostKey(t, kind, -60))
			}
			all = slices.Clone(old)
			for i, kind := range c.next {
				all = append(all, hostKey(t, kind, i))
			}
			known := filepath.Join(t.TempDir(), "known_hosts")
			host, port := r.hostPort(t)
			// login stays until known_hosts has so many keys: what OpenSSH learns comes beside the session. The path is
			// quoted: it holds the case's name, parentheses and all.
			login := func(checking string, keys int, options ...string) {
				t.Helper()
				stay := fmt.Sprintf("!for i in $(seq 400); do [ $(wc -l < '%s') = %d ] && break; sleep 0.05; done\n", known, keys)
				args := r.sshOptions(slices.Concat([]string{"StrictHostKeyChecking=" + checking, "UpdateHostKeys=yes", "UserKnownHostsFile=" + known}, options)...)
				args = slices.DeleteFunc(args, func(a string) bool { // the first value of an option counts
					return a == "-oStrictHostKeyChecking=no" || a == "-oUserKnownHostsFile=/dev/null"
				})
				if out, err := doortest.Run(t, stay, "sftp", append(args, "-b", "-", "-P", port, user+"@"+host)...); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			knows := func(key hostkeys.Key) bool {
				lines, err := os.ReadFile(known)
				if err != nil {
					t.Fatal(err)
				}
				public, err := ssh.ParsePublicKey(blob(t, key))
				if err != nil {
					t.Fatal(err)
				}
				return bytes.Contains(lines, bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)))
			}

			r.setHostKeys(old...)
			login("accept-new", 1, c.options...) // trusts the old key
			if !knows(old[0]) {
				t.Fatal("the client did not take the first key")
			}
			r.setHostKeys(all...)
			login("yes", len(all), c.options...) // learns the new ones
			for _, key := range all {
				if !knows(key) {
					t.Errorf("the client did not learn the %s key", key.Type)
				}
			}
			r.setHostKeys(all[len(old):]...)
			login("yes", len(c.next), c.options...) // knows them
			for _, key := range old {
				if knows(key) {
					t.Error("the client did not forget the old key")
				}
			}
		})
	}
}

// TestOldestKeyIsOffered: of several keys of a type the oldest signs the key exchange, and a change is live for the next
// connection.
func TestOldestKeyIsOffered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := hostKey(t, "-t ed25519", -60), hostKey(t, "-t ed25519", 0)
	offered := func() []byte {
		t.Helper()
		var got []byte
		conn, chans, reqs, err := ssh.NewClientConn(r.tcp(t), r.addr, &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key)}, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { got = key.Marshal(); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		client := ssh.NewClient(conn, chans, reqs)
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		return got
	}
	r.setHostKeys(second, first)
	if !bytes.Equal(offered(), blob(t, first)) {
		t.Error("the newer key was offered")
	}
	r.setHostKeys(second)
	if !bytes.Equal(offered(), blob(t, second)) {
		t.Error("a deleted key was offered")
	}
}

// TestProofs asks for proofs as a client should and as it should not.
func TestProofs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rsaKey, extra := hostKey(t, "-t rsa -b 2048", 0), hostKey(t, "-t ed25519", 1)
	r.setHostKeys(hostKey(t, "-t ed25519", -60), rsaKey, extra)
	stranger := hostKey(t, "-t ed25519", 0)

	announced := make(chan []byte, 1)
	connect := func() *ssh.Client {
		t.Helper()
		conn, chans, reqs, err := ssh.NewClientConn(r.tcp(t), r.addr, &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key)}, HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(chan *ssh.Request, 1)
		go func() {
			for q := range reqs {
				if q.Type == "hostkeys-00@openssh.com" && !q.WantReply {
					select {
					case announced <- q.Payload:
					default:
					}
				}
			}
			close(seen)
		}()
		client := ssh.NewClient(conn, chans, seen)
		t.Cleanup(func() { client.Close() })
		return client
	}
	client := connect()
	var want []byte
	for _, key := range r.current().HostKeys {
		want = append(want, str(string(blob(t, key)))...)
	}
	got := <-announced
	if len(got) != len(want) {
		t.Errorf("%d bytes announced, want %d", len(got), len(want))
	}
	ok, proofs, err := client.SendRequest("hostkeys-prove-00@openssh.com", true, join(str(string(blob(t, rsaKey))), str(string(blob(t, extra)))))
	if err != nil || !ok {
		t.Fatalf("proofs: %v %v", ok, err)
	}
	for _, key := range []hostkeys.Key{rsaKey, extra} {
		n := binary.BigEndian.Uint32(proofs)
		var signature ssh.Signature
		if err := ssh.Unmarshal(proofs[4:4+n], &signature); err != nil {
			t.Fatal(err)
		}
		proofs = proofs[4+n:]
		public, err := ssh.ParsePublicKey(blob(t, key))
		if err != nil {
			t.Fatal(err)
		}
		signed := join(str("hostkeys-prove-00@openssh.com"), str(string(client.SessionID())), str(string(blob(t, key))))
		if err := public.Verify(signed, &signature); err != nil {
			t.Errorf("%s: %v", key.Type, err)
		}
		if key.Type == "ssh-rsa" && signature.Format != "rsa-sha2-512" {
			t.Errorf("RSA proof by %s", signature.Format)
		}
	}
	if len(proofs) > 0 {
		t.Errorf("%d bytes too many", len(proofs))
	}
	for name, body := range map[string][]byte{
		"a second time":   str(string(blob(t, extra))),
		"a strange key":   str(string(blob(t, stranger))),
		"one key twice":   join(str(string(blob(t, extra))), str(string(blob(t, extra)))),
		"garbage":         []byte("garbage"),
		"cut":             str(string(blob(t, extra)))[:20],
		"one more to cut": append(str(string(blob(t, extra))), 0, 0),
	} {
		c := client
		if name != "a second time" {
			c = connect()
		}
		if ok, _, err := c.SendRequest("hostkeys-prove-00@openssh.com", true, body); ok || err != nil {
			t.Errorf("%s: %v %v", name, ok, err)
		}
	}
}

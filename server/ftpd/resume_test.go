package ftpd_test

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

func modifying(r *rig) { r.store.Modify = true }

// Where the storage cannot go on with a file, it is said before a byte is sent; a file that is not there yet can be
// appended to everywhere.
func TestNoAppend(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/a", []byte("abc"))
	p := r.login(t, 0)
	p.pasv()
	p.cmd("504 This storage cannot go on with a file", "APPE a")
	p.cmd("350", "REST 3")
	p.cmd("504 This storage cannot go on with a file", "STOR a")
	if got := r.store.Get("home/a"); string(got) != "abc" {
		t.Errorf("the file is %q", got)
	}
	d := p.open("APPE new")
	mustWrite(t, d, body)
	d.Close()
	p.expect("226")
	r.journal.Verdict(t, "home/new", session.Complete, session.Closed)
}

// APPE and REST with STOR, where the storage can (RFC 959, 4.1.3; RFC 3659, 5).
func TestResume(t *testing.T) {
	t.Parallel()
	const before = "0123456789"
	for _, c := range []struct {
		name, rest, command, sent, want, refused string
		begins                                   bool // there is an upload
	}{
		{name: "append", command: "APPE a", sent: "more", want: before + "more", begins: true},
		{name: "append nothing", command: "APPE a", want: before},
		{name: "append after REST", rest: "2", command: "APPE a", sent: "more", want: before + "more", begins: true},
		{name: "at the end", rest: "10", command: "STOR a", sent: "more", want: before + "more", begins: true},
		{name: "in the middle", rest: "2", command: "STOR a", sent: "xy", want: "01xy456789", begins: true},
		{name: "over the end", rest: "8", command: "STOR a", sent: "wxyz", want: "01234567wxyz", begins: true},
		{name: "nothing", rest: "5", command: "STOR a", want: before},
		{name: "from the beginning", rest: "0", command: "STOR a", sent: "new", want: "new", begins: true},
		{name: "beyond the end", rest: "11", command: "STOR a", refused: "554 The restart point lies beyond the end", want: before},
		{name: "no such file", rest: "1", command: "STOR b", refused: "550 No such file", want: before},
		{name: "a directory", rest: "1", command: "STOR .", refused: "550 Is a directory", want: before},
	} {
		for protocol, version := range map[string]uint16{"plain": 0, "tls13": tls.VersionTLS13} {
			t.Run(c.name+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, func(r *rig, _ *ftpdConfig) { modifying(r) })
				r.store.Put("home/a", []byte(before))
				p := r.login(t, version)
				if c.rest != "" {
					p.cmd("350", "REST "+c.rest)
				}
				if c.refused != "" {
					p.pasv()
					p.cmd(c.refused, c.command)
				} else {
					d := p.open(c.command)
					mustWrite(t, d, []byte(c.sent))
					d.Close()
					p.expect("226")
				}
				if c.begins {
					if v := r.journal.Verdict(t, "home/a", session.Complete, session.Closed); v.Received != int64(len(c.sent)) {
						t.Errorf("verdict %+v", v)
					}
				}
				if got := r.store.Get("home/a"); string(got) != c.want {
					t.Errorf("the file is %q, want %q", got, c.want)
				}
				// REST was for that transfer alone.
				p.put("next", []byte("whole"))
				if got := r.store.Get("home/next"); string(got) != "whole" {
					t.Errorf("the next file is %q", got)
				}
				if found := r.journal.Verdicts("home/a"); !c.begins && len(found) > 0 {
					t.Errorf("verdicts %+v", found)
				}
			})
		}
	}
}

// An interrupted upload goes on where it stopped, and each part has its verdict.
func TestInterruptedAndResumed(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, _ *ftpdConfig) { modifying(r) })
	p := r.login(t, 0)
	d := p.open("STOR a")
	mustWrite(t, d, body[:1000])
	doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegunWith("home/a") })
	p.send("ABOR")
	p.expect("426")
	p.expect("226")
	r.journal.Verdict(t, "home/a", session.Partial, session.Abort)
	size := strings.TrimSpace(strings.TrimPrefix(p.cmd("213", "SIZE a"), "213 "))
	p.cmd("350", "REST "+size)
	d = p.open("STOR a")
	mustWrite(t, d, body[1000:])
	d.Close()
	p.expect("226")
	doortest.Eventually(t, "the second verdict", func() bool { return len(r.journal.Verdicts("home/a")) == 2 })
	if v := r.journal.Verdicts("home/a")[1]; v.Outcome != session.Complete || v.Received != int64(len(body)-1000) {
		t.Errorf("verdict %+v", v)
	}
	if got := r.store.Get("home/a"); size != "1000" || string(got) != string(body) {
		t.Errorf("resumed at %s, then %d bytes", size, len(got))
	}
}

// A killed resume is partial, and keeps what came.
func TestResumeCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, _ *ftpdConfig) { modifying(r) })
	r.store.Put("home/a", []byte("0123456789"))
	p := r.login(t, 0)
	d := p.open("APPE a")
	mustWrite(t, d, []byte("more"))
	doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegunWith("home/a") })
	p.tcp.Close()
	if v := r.journal.Wait(t, "home/a"); v.Outcome != session.Partial || v.Received != 4 {
		t.Errorf("verdict %+v", v)
	}
	doortest.Eventually(t, "the bytes", func() bool { return string(r.store.Get("home/a")) == "0123456789more" })
}

// MFMT where the storage has times (EFS).
func TestMFMTWithTimes(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, _ *ftpdConfig) { modifying(r) })
	r.store.Put("home/a", []byte("abc"))
	p := r.login(t, 0)
	p.cmd("213 Modify=20200102030405; a", "MFMT 20200102030405 a")
	p.cmd("213 20200102030405", "MDTM a")
	p.cmd("550 No such file", "MFMT 20200102030405 b")
	p.cmd("501", "MFMT 2020 a")
}

// A resume for which no data connection comes changes nothing.
func TestResumeWithoutData(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, c *ftpdConfig) { modifying(r); c.ConnectTimeout = time.Second })
	r.store.Put("home/a", []byte("0123456789"))
	p := r.login(t, 0)
	p.cmd("425", "APPE a")
	p.cmd("350", "REST 4")
	p.pasv()
	p.cmd("425", "STOR a")
	p.cmd("200", "NOOP")
	if r.journal.HasBegun() || string(r.store.Get("home/a")) != "0123456789" {
		t.Error("an upload without a data connection")
	}
}

// REST with RETR: up to the end, and not beyond.
func TestRestartedDownloads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/a", []byte("0123456789"))
	p := r.login(t, 0)
	for _, c := range []struct{ rest, want string }{{"4", "456789"}, {"10", ""}, {"0", "0123456789"}} {
		p.cmd("350", "REST "+c.rest)
		if got := p.fetch("RETR a"); got != c.want {
			t.Errorf("REST %s: %q", c.rest, got)
		}
	}
	p.cmd("350", "REST 4")
	p.fetch("LIST") // takes the REST with it
	if got := p.fetch("RETR a"); got != "0123456789" {
		t.Errorf("after LIST: %q", got)
	}
	p.cmd("350", "REST 11")
	p.pasv()
	p.cmd("554", "RETR a")
	if got := p.fetch("RETR a"); got != "0123456789" {
		t.Errorf("after a refusal: %q", got)
	}
}

// lftp's and curl's own ways to go on with a file.
func TestClientsResume(t *testing.T) {
	t.Parallel()
	half := string(body[:len(body)/2])
	for name, client := range map[string]func(r *rig, file string) (string, error){
		"curl": func(r *rig, file string) (string, error) { // APPE
			return doortest.Run(r.t, "", "curl", "-sS", "-m", "60", "--user", user+":"+password, "-C", "-", "-T", file, "ftp://"+r.addr+"/a")
		},
		"lftp": func(r *rig, file string) (string, error) { // REST and STOR
			return doortest.Run(r.t, "", "lftp", "-c", "set ftp:ssl-allow no; set net:max-retries 1; set net:timeout 30; set cmd:fail-exit yes; open -u "+
				user+`,"`+password+`" ftp://`+r.addr+"; put -c "+file+" -o a; bye")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(r *rig, _ *ftpdConfig) { modifying(r) })
			r.store.Put("home/a", []byte(half))
			if out, err := client(r, doortest.File(t, body)); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if v := r.journal.Verdict(t, "home/a", session.Complete, session.Closed); v.Received != int64(len(body)-len(half)) {
				t.Errorf("verdict %+v", v)
			}
			if string(r.store.Get("home/a")) != string(body) {
				t.Error("other bytes")
			}
		})
	}
}

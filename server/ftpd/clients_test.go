package ftpd_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

// reusing is what makes Python's ftplib resume the control connection's session, which it does not do by itself.
const reusing = `
class Reusing(ftplib.FTP_TLS):
    def ntransfercmd(self, cmd, rest=None):
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:
            conn = self.context.wrap_socket(conn, server_hostname=self.host, session=self.sock.session)
        return conn, size
`

// script is the day of a Python client: three uploads, list, download, resume, rename, delete.
const script = `
import ftplib, io, ssl, sys
%s
host, port, kind, version = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
data = open(sys.argv[5], "rb").read()
if kind == "plain":
    f = ftplib.FTP()
else:
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.verify_mode = ssl.CERT_NONE
    ctx.minimum_version = ctx.maximum_version = getattr(ssl.TLSVersion, version)
    f = (Reusing if kind == "reuse" else ftplib.FTP_TLS)(context=ctx)
f.connect(host, port)
f.login("alice", "correct horse")
if kind != "plain":
    f.prot_p()
for name in ("one", "two", "three"):
    f.storbinary("STOR " + name, io.BytesIO(data))
names = f.nlst()
assert {"one", "two", "three"} <= set(names), names
assert {n for n, facts in f.mlsd() if facts["type"] == "file"} >= {"one", "two"}
back = io.BytesIO()
f.retrbinary("RETR one", back.write)
assert back.getvalue() == data
back = io.BytesIO()
f.retrbinary("RETR one", back.write, rest=len(data) - 10)
assert back.getvalue() == data[-10:]
assert f.size("one") == len(data)
f.rename("two", "four")
f.delete("three")
f.mkd("d"); f.cwd("d"); f.cwd(".."); f.rmd("d")
f.quit()
print("well")
`

func (r *rig) python(t *testing.T, kind, version string) (string, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	return doortest.Run(t, fmt.Sprintf(script, reusing), "python3", "-", host, port, kind, version, doortest.File(t, body))
}

// day checks what a client's day has left behind.
func (r *rig) day(t *testing.T) {
	t.Helper()
	for _, name := range []string{"one", "two", "three"} {
		r.journal.Verdict(t, "home/"+name, session.Complete, session.Closed)
	}
	if !bytes.Equal(r.store.Get("home/one"), body) || !bytes.Equal(r.store.Get("home/four"), body) || r.store.Get("home/three") != nil {
		t.Error("the store is not as the client left it")
	}
}

func TestPython(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "reuse", "fresh"} {
		for _, version := range []string{"TLSv1_2", "TLSv1_3"} {
			for _, resumption := range []string{"DISABLED", "ENABLED", "ENFORCED"} {
				if kind == "plain" && (version != "TLSv1_2" || resumption != "ENFORCED") {
					continue // in the clear they are all the same
				}
				t.Run(strings.Join([]string{kind, version, resumption}, "/"), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, mode(resumption))
					out, err := r.python(t, kind, version)
					if kind == "fresh" && resumption == "ENFORCED" {
						if err == nil || !strings.Contains(out, "522 The data connection must resume") {
							t.Errorf("%v: %s", err, out)
						}
						return
					}
					if err != nil || !strings.Contains(out, "well") {
						t.Fatalf("%v: %s", err, out)
					}
					r.day(t)
				})
			}
		}
	}
}

func TestLftp(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for _, tls12 := range []bool{false, true} {
			for _, resumption := range []string{"DISABLED", "ENABLED", "ENFORCED"} {
				if !secure && (tls12 || resumption != "ENFORCED") {
					continue
				}
				t.Run(fmt.Sprintf("tls=%v/only12=%v/%s", secure, tls12, resumption), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, mode(resumption), config(func(c *ftpd.Config) { c.TLS12Only = tls12 }))
					file := doortest.File(t, body)
					back := filepath.Join(t.TempDir(), "back")
					out, err := doortest.Run(t, "", "lftp", "-c", fmt.Sprintf(`set ssl:verify-certificate no; set ftp:ssl-allow %[1]v; set ftp:ssl-force %[1]v;
						set ftp:ssl-protect-data %[1]v; set net:max-retries 1; set net:timeout 10; set cmd:fail-exit yes;
						open -u %[2]s,"%[3]s" ftp://%[4]s; put %[5]s -o one; put %[5]s -o two; put %[5]s -o three; cls -l;
						get one -o %[6]s; mv two four; rm three; mkdir d; rmdir d; bye`, secure, user, password, r.addr, file, back))
					if err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					r.day(t)
					if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, body) {
						t.Errorf("downloaded %d bytes, %v", len(got), err)
					}
				})
			}
		}
	}
}

// curl with OpenSSL sends no ticket in TLS 1.2, so under ENFORCED it needs 1.3 (protocol-libraries D).
func TestCurl(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "1.2", "1.3"} {
		for _, resumption := range []string{"DISABLED", "ENABLED", "ENFORCED"} {
			if version == "" && resumption != "ENFORCED" {
				continue
			}
			t.Run(version+"/"+resumption, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, mode(resumption))
				file, back := doortest.File(t, body), filepath.Join(t.TempDir(), "back")
				url := "ftp://" + r.addr + "/"
				args := []string{"-sS", "-m", "30", "-k", "--user", user + ":" + password}
				if version != "" {
					args = append(args, "--ssl-reqd", "--tlsv"+version, "--tls-max", version)
				}
				out, err := doortest.Run(t, "", "curl", append(args, "-T", file, url+"one", "-T", file, url+"two", "-T", file, url+"three",
					"-Q", "-RNFR two", "-Q", "-RNTO four")...)
				if version == "1.2" && resumption == "ENFORCED" {
					if err == nil {
						t.Error("curl resumes in TLS 1.2 now")
					}
					entry := r.log.Await(t, "TLS_RESUME_FAILURE")
					if entry["client"] != "curl" || entry["ticket-offered"] != "no" || entry["tls-version"] != "TLS 1.2" {
						t.Errorf("log %v", entry)
					}
					return
				}
				for _, name := range []string{"one", "two", "three"} {
					if v := r.journal.Wait(t, "home/"+name); v.Outcome != session.Complete {
						t.Errorf("%s: %s %s", name, v.Outcome, v.Evidence)
					}
				}
				if out2, err := doortest.Run(t, "", "curl", append(args, "-C", "1000", "-o", back, url+"one")...); err != nil {
					t.Errorf("%v: %s %s", err, out, out2)
				}
				if out, err := doortest.Run(t, "", "curl", append(args, url)...); err != nil || !strings.Contains(out, "one") {
					t.Errorf("list: %v: %s", err, out)
				}
			})
		}
	}
}

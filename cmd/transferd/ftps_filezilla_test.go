package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

var driveFileZilla = flag.Bool("filezilla", false, "run TestFileZilla: the window of FileZilla on a display of its own, with mouse and keys")

// Where FileZilla's lists of files are on a display of 1280 × 900 without a window manager.
const (
	localList  = "120"
	remoteList = "720"
	listHeight = "517" // of a file
)

// The dialog in which FileZilla asks about data connections that do not resume. Where in it is the box to tick for always, and
// where OK.
const insecureData = "Insecure FTP data connection"

func alwaysBox() []string { return []string{"18", "194"} }
func okButton() []string  { return []string{"457", "236"} }

// textFiles have no extension, so FileZilla sends them as text (TYPE A). Its own text mode puts a CR before each CR LF, so
// they have none.
func textFiles() []string { return []string{"one", "two", "three"} }

// halfFile is sent half by another client before, and FileZilla resumes it: up, and down.
const halfFile = "five.bin"

// TestFileZilla drives the real window of FileZilla, in the three modes and in both TLS versions: log in, list, send three files,
// resume the upload of a fourth, log in again, fetch three and resume the download of the fourth. Under DISABLED it asks whether
// to go on, at the first log-in and not at the second.
func TestFileZilla(t *testing.T) {
	if !*driveFileZilla {
		t.Skip("drives a window: run it with -filezilla (make matrix)")
	}
	client := ftpsClient{name: "FileZilla", key: "filezilla", tls: true, version: []string{"dpkg-query", "-W", "-f", "FileZilla ${Version}\n", "filezilla"}}
	w := newFTPSWorld(t, []ftpsClient{client})
	w.content = bytes.ReplaceAll(w.content, []byte("\r\n"), []byte("\n\n"))
	results := map[string]string{}
	for _, col := range fileZillaColumns() {
		t.Run(client.user(col), func(t *testing.T) {
			z := newFileZilla(t, w, client.user(col), col)
			z.send()
			z.fetch()
			w.told(t, z.user, col, passes)
			results[col.String()] = passes
		})
	}
	if t.Failed() || !*update {
		return
	}
	page := filepath.Join("..", "..", "docs", "ftps-clients.md")
	others, _, _ := strings.Cut(string(mustRead(t, page)), fileZillaTitle)
	if err := os.WriteFile(page, []byte(others+fileZillaPage(results, ftpsVersion(t, client))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fileZillaTitle begins what TestFileZilla writes; it is the end of the page.
const fileZillaTitle = "\n## FileZilla\n\n"

func fileZillaPage(results map[string]string, version string) string {
	var b strings.Builder
	b.WriteString(fileZillaTitle + "Its window, driven with mouse and keys on a display of its own (" + version + `; ` + "`make matrix`" + `, not the ordinary
tests): it logs in, lists, sends three files without extension, resumes the upload of a fourth, logs in again, fetches the
three and resumes the download of the fourth, with the certificate in its trust store.

|`)
	for _, col := range fileZillaColumns() {
		fmt.Fprintf(&b, " TLS %s |", col)
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(results)) + "\n|")
	for _, col := range fileZillaColumns() {
		fmt.Fprintf(&b, " %s |", results[col.String()])
	}
	b.WriteString(`

Where data connections do not resume, as in DISABLED, it warns its user that they may be stolen, before its first listing, and
asks whether to go on. Here the answer is OK, with *Always allow insecure data connections for this server in future sessions*
ticked; after that it passes, and at the second log-in it does not ask.

It sends files without extension as text (TYPE A), and in that mode it puts a CR before each CR LF of a file by itself: such a
file arrives longer than it was, on this server, which keeps what comes, as on others. Where files without extension are not
text, set *Transfer, Transfer type, Binary* in FileZilla.
`)
	return b.String()
}

// fileZillaColumns are those with TLS.
func fileZillaColumns() []ftpsColumn {
	return slices.DeleteFunc(ftpsColumns(), func(col ftpsColumn) bool { return col.tls == "plain" })
}

// fileZilla is one home of FileZilla, on one display.
type fileZilla struct {
	t           *testing.T
	w           *ftpsWorld
	user        string
	url         string
	home, local string
	env         []string
	asks        bool // whether data connections without resumption are news to it
}

func newFileZilla(t *testing.T, w *ftpsWorld, user string, col ftpsColumn) *fileZilla {
	t.Helper()
	z := &fileZilla{t: t, w: w, user: user, home: t.TempDir(), local: t.TempDir(), asks: col.mode == "DISABLED"}
	host, port, err := net.SplitHostPort(w.servers[col.mode])
	if err != nil {
		t.Fatal(err)
	}
	z.url = fmt.Sprintf("ftpes://%s:%s@%s:%s/", user, ftpPassword, host, port)
	config := filepath.Join(z.home, ".config", "filezilla")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(mustRead(t, filepath.Join(w.p.data, "ftp.crt")))
	z.write(filepath.Join(config, "trustedcerts.xml"), fmt.Sprintf(fileZillaTrust, hex.EncodeToString(block.Bytes), host, port))
	z.write(filepath.Join(config, "filezilla.xml"), fmt.Sprintf(fileZillaSettings, z.log()))
	other := map[string]string{"1.2": "1.3", "1.3": "1.2"}[col.tls]
	priorities := filepath.Join(z.home, "gnutls.conf")
	z.write(priorities, "[overrides]\ndisabled-version = tls"+other+"\n")
	z.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + z.home, "LC_ALL=C.UTF-8", "GNUTLS_SYSTEM_PRIORITY_FILE=" + priorities, "DISPLAY=" + display(t)}
	return z
}

const fileZillaTrust = `<?xml version="1.0" encoding="UTF-8"?>
<FileZilla3><TrustedCerts><Certificate><Data>%s</Data><ActivationTime>1</ActivationTime><ExpirationTime>4000000000</ExpirationTime>
<Host>%s</Host><Port>%s</Port><TrustSANs>0</TrustSANs></Certificate></TrustedCerts></FileZilla3>
`

// No greeting, no update, a log, and files that exist are resumed (5).
const fileZillaSettings = `<?xml version="1.0" encoding="UTF-8"?>
<FileZilla3><Settings><Setting name="Greeting version">99.0.0</Setting><Setting name="Update Check">0</Setting>
<Setting name="File exists action download">5</Setting><Setting name="File exists action upload">5</Setting>
<Setting name="Logging file">%s</Setting></Settings></FileZilla3>
`

func (z *fileZilla) write(name, text string) {
	z.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		z.t.Fatal(err)
	}
}

func (z *fileZilla) log() string { return filepath.Join(z.home, "log") }

// display starts an X server that shows nothing to anybody, and returns its name.
func display(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, "Xvfb", "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	number, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return ":" + strings.TrimSpace(number)
}

// run shows the window with a local folder, and transfers all that one of its lists has.
func (z *fileZilla) run(local, list string, done func() bool) {
	t := z.t
	t.Helper()
	if err := os.RemoveAll(z.log()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "filezilla", z.url, "-a", local)
	cmd.Env = z.env
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	if z.asks {
		z.allow()
		z.asks = false
	}
	z.w.p.await("FileZilla lists", func() bool { return z.says(`Directory listing of "/" successful`) })
	z.w.p.await("FileZilla transfers", func() bool {
		if !z.says("Status: Starting ") {
			z.touch(list)
		}
		return done()
	})
}

// allow has FileZilla go on without resumption, now and in future sessions. A tick is no tick when it is clicked twice; OK may be.
func (z *fileZilla) allow() {
	z.t.Helper()
	z.w.p.await("FileZilla asks about "+insecureData, func() bool { return z.inDialog(alwaysBox()) })
	z.w.p.await("FileZilla has its answer", func() bool { return !z.inDialog(okButton()) })
}

// inDialog clicks at a place of the dialog, and says whether there was one.
func (z *fileZilla) inDialog(place []string) bool {
	args := []string{"search", "--onlyvisible", "--name", insecureData, "sleep", "1", "mousemove", "--window", "%1"}
	args = append(append(args, place...), "click", "1", "sleep", "1")
	_, err := z.xdotool(args...)
	return err == nil
}

// touch selects all files of a list and presses Enter, which transfers them.
func (z *fileZilla) touch(list string) {
	z.t.Helper()
	if out, err := z.xdotool("mousemove", list, listHeight, "click", "1", "sleep", "1", "key", "ctrl+a", "sleep", "1", "key", "Return", "sleep", "5"); err != nil {
		z.t.Fatalf("%v: %s", err, out)
	}
}

func (z *fileZilla) xdotool(args ...string) (string, error) {
	cmd := exec.CommandContext(z.t.Context(), "xdotool", args...)
	cmd.Env = z.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (z *fileZilla) says(text string) bool {
	b, err := os.ReadFile(z.log())
	return err == nil && bytes.Contains(b, []byte(text))
}

func (z *fileZilla) send() {
	t := z.t
	t.Helper()
	half := z.w.content[:len(z.w.content)/2]
	if _, err := z.w.p.s3().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(devBucket), Key: aws.String(z.user + "/" + halfFile), Body: bytes.NewReader(half)}); err != nil {
		t.Fatal(err)
	}
	names := append(textFiles(), halfFile)
	for _, name := range names {
		z.write(filepath.Join(z.local, name), string(z.w.content))
	}
	z.run(z.local, localList, func() bool {
		for _, name := range names {
			if !bytes.Equal(z.w.p.object(z.user+"/"+name), z.w.content) {
				return false
			}
		}
		return true
	})
}

func (z *fileZilla) fetch() {
	t := z.t
	t.Helper()
	back := t.TempDir()
	z.write(filepath.Join(back, halfFile), string(z.w.content[:len(z.w.content)/2]))
	z.run(back, remoteList, func() bool {
		for _, name := range append(textFiles(), halfFile) {
			if b, err := os.ReadFile(filepath.Join(back, name)); err != nil || !bytes.Equal(b, z.w.content) {
				return false
			}
		}
		return true
	})
}

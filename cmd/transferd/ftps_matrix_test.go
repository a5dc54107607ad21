package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

var update = flag.Bool("update", false, "write docs/ftps-clients.md anew out of what the clients do")

// What a client's day came to. The first three are the server's doing, the others the client's own.
const (
	passes         = "passes"
	refused522     = "refused: 522"
	refused530     = "refused: 530"
	laterFile      = "1st file passes, then 522"
	givesUp        = "the client gives up"
	noTLS          = "no TLS"
	failsOtherwise = "FAILS"
)

// What the client shows of a refusal: our words, whichever way it prints them.
const (
	words522 = "The data connection must resume the TLS session of the control connection"
	words530 = "TLS is required: send AUTH TLS first"
	wordsPHP = "failed to retrieve the existing SSL session"
)

// ftpsClient is a client that others wrote. Its driver, in testdata/ftps, does the same things as all the others.
type ftpsClient struct {
	name   string // of the row
	key    string // of users and folders
	driver []string
	env    []string
	tls    bool
	// whole says that it sends files as a whole alone.
	whole bool
	// unlike are the columns in which it does not pass, and what happens instead.
	unlike  map[string]string
	version []string // prints its version
	note    string
}

func ftpsClients() []ftpsClient {
	never := map[string]string{"1.2 ENFORCED": refused522, "1.3 ENFORCED": refused522}
	return []ftpsClient{
		{name: "lftp", key: "lftp", tls: true, driver: []string{"sh", "lftp.sh"}, version: []string{"lftp", "--version"},
			note: "resumes in both TLS versions"},
		{name: "curl (OpenSSL)", key: "curl", tls: true, driver: []string{"sh", "curl.sh"}, version: []string{"curl", "--version"},
			unlike: map[string]string{"1.2 ENFORCED": refused522},
			note:   "in TLS 1.2 it asks for no session ticket and resumes by session IDs alone, which this server does not keep; in 1.3 it resumes"},
		{name: "Python ftplib", key: "ftplib", tls: true, driver: []string{"python3", "pyftp.py"}, version: []string{"python3", "--version"},
			unlike: never, note: "does not resume by itself"},
		{name: "Python ftplib with session reuse", key: "ftplib-reuse", tls: true, driver: []string{"python3", "pyftp.py"}, env: []string{"REUSE=1"},
			version: []string{"python3", "--version"}, note: "`ntransfercmd` overridden so that it wraps the data connection with `session=self.sock.session`"},
		{name: "PHP ftp_ssl_connect", key: "php", tls: true, driver: []string{"php", "php.php"}, version: []string{"php", "--version"},
			unlike: map[string]string{"1.2 DISABLED": givesUp, "1.3 DISABLED": givesUp, "1.2 ENFORCED": laterFile},
			note: "insists on a session to resume, so it gives up by itself where there is none (`" + wordsPHP +
				"`); in TLS 1.2 it forgets the session after one use, so every second data connection is a new one"},
		{name: "Perl Net::FTP", key: "perl", tls: true, driver: []string{"perl", "netftp.pl"},
			version: []string{"perl", "-MNet::FTP", "-MIO::Socket::SSL", "-e", `print "Net::FTP $Net::FTP::VERSION, IO::Socket::SSL $IO::Socket::SSL::VERSION\n"`},
			unlike:  never, note: "does not resume"},
		{name: "rclone", key: "rclone", tls: true, whole: true, driver: []string{"sh", "rclone.sh"}, version: []string{"rclone", "version"},
			note: "resumes in both TLS versions; several processes, each with its control connection; has no resumed uploads"},
		{name: "Node basic-ftp", key: "basic-ftp", tls: true, driver: []string{"node", "basicftp.js"},
			version: []string{"node", "-p", "'basic-ftp ' + require(process.env.BASIC_FTP + '/package.json').version + ', Node ' + process.version"},
			note:    "resumes in both TLS versions"},
		{name: "ncftp", key: "ncftp", driver: []string{"sh", "ncftp.sh"}, version: []string{"ncftpput", "-version"}, note: "has no TLS: plain FTP alone; resumes uploads with `-s -z`, with `-z` alone its sendfile begins at the file's beginning"},
		{name: "tnftp", key: "tnftp", driver: []string{"sh", "tnftp.sh"}, version: []string{"dpkg-query", "-W", "-f", "tnftp ${Version}\n", "tnftp"},
			note: "uses TLS for HTTPS alone: plain FTP alone"},
	}
}

// ftpsColumn is what the server and the client are told.
type ftpsColumn struct{ tls, mode string }

func (c ftpsColumn) String() string { return c.tls + " " + c.mode }

// onlyFTPS is the column's server that has FTPS and not FTP.
const onlyFTPS = "FTPS-ONLY"

func ftpsColumns() []ftpsColumn {
	columns := []ftpsColumn{{"plain", "ENFORCED"}, {"plain", onlyFTPS}}
	for _, version := range []string{"1.2", "1.3"} {
		for _, mode := range []string{"DISABLED", "ENABLED", "ENFORCED"} {
			columns = append(columns, ftpsColumn{version, mode})
		}
	}
	return columns
}

// must is what AWS's rule makes of a client's day.
func (c ftpsClient) must(col ftpsColumn) string {
	switch {
	case col.mode == onlyFTPS:
		return refused530
	case col.tls != "plain" && !c.tls:
		return noTLS
	}
	return cmp.Or(c.unlike[col.String()], passes)
}

// ftpsWorld is a daemon with a server for each mode, and the file that everybody sends.
type ftpsWorld struct {
	p       *proc
	servers map[string]string // mode to address
	drivers string
	data    string
	content []byte
}

func newFTPSWorld(t *testing.T, clients []ftpsClient) *ftpsWorld {
	t.Helper()
	var users []string
	for _, c := range clients {
		for _, col := range ftpsColumns() {
			users = append(users, c.user(col))
		}
	}
	drivers, err := filepath.Abs(filepath.Join("testdata", "ftps"))
	if err != nil {
		t.Fatal(err)
	}
	w := &ftpsWorld{servers: map[string]string{}, drivers: drivers}
	w.data, w.content = file(t, 300_000)
	w.p = startDaemon(t, startOptions{args: []string{"-users", ftpUsers(t, t.TempDir(), users)}})
	for _, mode := range types.TlsSessionResumptionMode("").Values() {
		_, w.servers[string(mode)] = w.p.ftpServer(&types.ProtocolDetails{TlsSessionResumptionMode: mode}, "127.0.0.1:0", types.ProtocolFtp, types.ProtocolFtps)
	}
	_, w.servers[onlyFTPS] = w.p.ftpServer(&types.ProtocolDetails{}, "127.0.0.1:0", types.ProtocolFtps)
	return w
}

// user is the one of a cell, so that its files and log entries are told from those of others.
func (c ftpsClient) user(col ftpsColumn) string {
	return strings.ToLower(c.key + "-" + strings.ReplaceAll(col.tls, ".", "") + "-" + col.mode)
}

// day has a client do its day, and returns what it printed and the two files that it fetched.
func (w *ftpsWorld) day(t *testing.T, c ftpsClient, col ftpsColumn) (out string, back, tail []byte, err error) {
	t.Helper()
	host, port, err := net.SplitHostPort(w.servers[col.mode])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tail"), w.content[:len(w.content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.driver[0], filepath.Join(w.drivers, c.driver[1]))
	cmd.Env = append(clientEnv(t), c.env...)
	cmd.Env = append(cmd.Env, "HOST="+host, "PORT="+port, "WHO="+c.user(col), "WORD="+ftpPassword, "TLS="+col.tls,
		"CA="+filepath.Join(w.p.data, "ftp.crt"), "DATA="+w.data, "OUT="+dir, "DRIVERS="+w.drivers,
		"OPENSSL_CONF="+opensslOnly(t, col.tls))
	cmd.WaitDelay = 5 * time.Second
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s in %s: not within %v", c.name, col, patience)
	}
	read := func(name string) []byte {
		b, readErr := os.ReadFile(filepath.Join(dir, name))
		if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
			t.Error(readErr)
		}
		return b
	}
	return string(text), read("back"), read("tail"), err
}

// clientEnv is the environment of a client: nothing of the home of whoever runs the tests.
func clientEnv(t *testing.T) []string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installed, err := filepath.Glob(filepath.Join(cache, "transferd-test", "basic-ftp-*", "node_modules", "basic-ftp"))
	if err != nil || len(installed) == 0 {
		t.Fatalf("basic-ftp is not installed (%v): make deps", err)
	}
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C", "BASIC_FTP=" + slices.Max(installed)}
}

// opensslOnly writes a configuration that leaves OpenSSL one TLS version, for clients that have no option for it.
func opensslOnly(t *testing.T, version string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "openssl.cnf")
	text := "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n"
	if version != "plain" {
		text += "MinProtocol = TLSv" + version + "\nMaxProtocol = TLSv" + version + "\n"
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// cell is one client in one column.
func (w *ftpsWorld) cell(t *testing.T, c ftpsClient, col ftpsColumn) string {
	t.Helper()
	user := c.user(col)
	out, back, tail, err := w.day(t, c, col)
	one := w.p.object(user + "/one")
	// A refused upload may go on for a second, so that its client reads why. On a busy machine that can be too short.
	for tries := 1; tries < 5 && err != nil && one == nil && !strings.Contains(out, words522) && len(w.logged("TLS_RESUME_FAILURE", user)) > 0; tries++ {
		out, back, tail, err = w.day(t, c, col)
		one = w.p.object(user + "/one")
	}
	result := failsOtherwise
	switch {
	case strings.Contains(out, words530):
		result = refused530
	case strings.Contains(out, words522) && one == nil:
		result = refused522
	case strings.Contains(out, words522):
		result = laterFile
	case err != nil && strings.Contains(out, wordsPHP):
		result = givesUp
	case err == nil && bytes.Equal(back, w.content) && bytes.Equal(tail, w.content):
		result = passes
	}
	if want := c.must(col); result != want {
		t.Errorf("%s, %s: %s, want %s: %v\n%s", c.name, col, result, want, err, out)
	}
	if result == passes {
		w.left(t, user, c.whole)
	}
	w.told(t, user, col, result)
	return result
}

// left checks what a whole day leaves in the store.
func (w *ftpsWorld) left(t *testing.T, user string, whole bool) {
	t.Helper()
	names := []string{"one", "four", "five"}
	if whole {
		names = names[:2]
	}
	for _, name := range names {
		if got := w.p.object(user + "/" + name); !bytes.Equal(got, w.content) {
			t.Errorf("%s/%s has %d bytes of %d", user, name, len(got), len(w.content))
		}
	}
	for _, name := range []string{"two", "three"} {
		if w.p.object(user+"/"+name) != nil {
			t.Errorf("%s/%s is still there", user, name)
		}
	}
}

// logged are the log's entries of one kind about a user.
func (w *ftpsWorld) logged(activity, user string) []map[string]any {
	return slices.DeleteFunc(w.p.logged(activity), func(e map[string]any) bool { return e["user"] != user })
}

// told checks what the log says of a day: the TLS version that was wanted was used, and a refusal is explained.
func (w *ftpsWorld) told(t *testing.T, user string, col ftpsColumn, result string) {
	t.Helper()
	version := ""
	if col.tls != "plain" {
		version = "TLS " + col.tls
	}
	logins := w.logged("CONNECTED", user)
	if want := result != refused530; want != (len(logins) > 0) {
		t.Errorf("%s: %d logins", user, len(logins))
	}
	for _, e := range logins {
		if got, _ := e["tls-version"].(string); got != version {
			t.Errorf("%s: logged in with %q", user, got)
		}
	}
	failures := w.logged("TLS_RESUME_FAILURE", user)
	if want := result == refused522 || result == laterFile; want != (len(failures) > 0) {
		t.Errorf("%s: %d TLS_RESUME_FAILURE in the log", user, len(failures))
	}
	for _, e := range failures {
		if e["tls-version"] != version || e["message"] == "" || e["ticket-offered"] == "" {
			t.Errorf("%s: the log says %v", user, e)
		}
	}
}

// TestFTPSClients: what FTP and FTPS clients of others do in the three modes of TlsSessionResumptionMode, in both TLS
// versions, is what AWS's rule says and what docs/ftps-clients.md tells.
func TestFTPSClients(t *testing.T) {
	t.Parallel()
	w := newFTPSWorld(t, ftpsClients())
	var mu sync.Mutex
	results := map[string]map[string]string{}
	t.Run("cells", func(t *testing.T) {
		for _, c := range ftpsClients() {
			results[c.name] = map[string]string{}
			for _, col := range ftpsColumns() {
				if c.must(col) == noTLS {
					results[c.name][col.String()] = noTLS
					continue
				}
				t.Run(c.user(col), func(t *testing.T) {
					t.Parallel()
					result := w.cell(t, c, col)
					mu.Lock()
					defer mu.Unlock()
					results[c.name][col.String()] = result
				})
			}
		}
	})
	if t.Failed() {
		return
	}
	page := filepath.Join("..", "..", "docs", "ftps-clients.md")
	fresh := ftpsPage(results)
	if *update {
		_, fileZilla, _ := strings.Cut(string(mustRead(t, page)), fileZillaTitle)
		if err := os.WriteFile(page, []byte(fresh+versionsTitle+ftpsVersions(t)+fileZillaTitle+fileZilla), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, _, _ := strings.Cut(string(mustRead(t, page)), versionsTitle)
	if committed != fresh {
		t.Errorf("docs/ftps-clients.md is not what the clients do now: run this test with -update.\n%s", fresh)
	}
}

// versionsTitle begins what is not compared: another point release of a client is no other result.
const versionsTitle = "## Versions at the last update\n\n"

// ftpsPage is docs/ftps-clients.md up to the versions.
func ftpsPage(results map[string]map[string]string) string {
	var b strings.Builder
	b.WriteString(ftpsIntroduction)
	b.WriteString("| client | plain FTP | plain FTP, server with FTPS alone |")
	for _, col := range ftpsColumns()[2:] {
		fmt.Fprintf(&b, " TLS %s |", col)
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(ftpsColumns())+1) + "\n")
	for _, c := range ftpsClients() {
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, col := range ftpsColumns() {
			fmt.Fprintf(&b, " %s |", results[c.name][col.String()])
		}
		b.WriteString("\n")
	}
	b.WriteString(ftpsLegend)
	for _, c := range ftpsClients() {
		fmt.Fprintf(&b, "- **%s**: %s.\n", c.name, c.note)
	}
	b.WriteString(ftpsAdvice)
	return b.String()
}

func ftpsVersion(t *testing.T, c ftpsClient) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.version[0], c.version[1:]...)
	cmd.Env = clientEnv(t)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // some tell their version and fail
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	line, _, _ = strings.Cut(line, " | Copyright")
	line, _, _ = strings.Cut(line, " (x86_64")
	return line
}

// ftpsVersions asks each client for its version.
func ftpsVersions(t *testing.T) string {
	t.Helper()
	versions := map[string]string{}
	for _, c := range ftpsClients() {
		versions[c.name] = ftpsVersion(t, c)
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		fmt.Fprintf(&b, "- %s: %s\n", name, versions[name])
	}
	return b.String()
}

const ftpsIntroduction = `# FTP and FTPS clients

What real clients do against transferd in the three modes of TlsSessionResumptionMode, with TLS 1.2 and with TLS 1.3. Each
client sends three files, lists, fetches one and compares it, resumes a broken download, renames, deletes, and resumes a
broken upload (with REST or APPE, whichever it uses), into S3. This page is written by a test (` + "`make matrix`" + `), and the
ordinary tests compare it with what the clients do.

`

const ftpsLegend = `
- *passes*: all of it worked, and the store has what the client sent.
- *refused: 522*: the data connection did not resume the TLS session of its control connection, and the mode is ENFORCED. The
  client is told so ("` + words522 + `"), no byte of that
  file is stored, and the log has an entry TLS_RESUME_FAILURE that names the client, its TLS version and what would help.
- *1st file passes, then 522*: the same for the second data connection, because only the first one resumed.
- *the client gives up*: by itself, before it sends anything; the server would have taken the file.
- *refused: 530*: the server has no FTP, and the client sent USER without AUTH TLS ("` + words530 + `").
- *no TLS*: the client cannot do it.

## The clients

`

const ftpsAdvice = `
Before you set ENFORCED, look at the metric ` + "`transferd_ftp_tls_data_total{client,version,resumed}`" + ` under ENABLED: it tells
which clients do not resume.

Not in the table: WinSCP, a window on another system; nobody has driven it against this page's servers yet. FileZilla, a
window too, has a table of its own below.

`

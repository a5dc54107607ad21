package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

var (
	benchFTP       = flag.Bool("bench-ftp", false, "run TestBenchmarkFTP: a 1 GiB upload over FTP and FTPS beside vsftpd and beside SFTP")
	benchFTPRounds = flag.Int("bench-ftp-rounds", 5, "how often TestBenchmarkFTP measures each")
)

const vsftpdConfig = `
listen=YES
listen_address=127.0.0.1
listen_port=%[1]s
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
ftp_username=daemon
anon_root=%[2]s
write_enable=YES
anon_upload_enable=YES
anon_umask=022
secure_chroot_dir=/var/run/vsftpd/empty
ssl_enable=%[3]s
allow_anon_ssl=YES
require_ssl_reuse=NO
rsa_cert_file=%[4]s
rsa_private_key_file=%[5]s
%[6]s
`

// ftpBench is what the rounds of TestBenchmarkFTP share.
type ftpBench struct {
	t       *testing.T
	p       *proc
	dir     string // on tmpfs
	source  string
	address string // of our server
	sftp    string // of our server
	key     string // the user's SSH key
	store   string // which store our server writes to
	rsa     string // vsftpd's certificate and key: its own choice of ciphers knows no other
}

// TestBenchmarkFTP measures a 1 GiB upload with curl over FTP and FTPS, in turn into transferd and into vsftpd (files on
// tmpfs), and with OpenSSH's sftp into transferd, and prints figures and ratios. It judges nothing.
func TestBenchmarkFTP(t *testing.T) {
	if !*benchFTP {
		t.Skip("a benchmark: run it with -bench-ftp (make bench-ftp)")
	}
	b := newFTPBench(t)
	figures := map[string][]putFigure{}
	variants := []struct {
		name string
		run  func() putFigure
	}{
		{"FTP transferd", func() putFigure { return b.ours("plain") }},
		{"FTP vsftpd", func() putFigure { return b.vsftpd("plain", "") }},
		{"FTPS 1.2 transferd", func() putFigure { return b.ours("1.2") }},
		{"FTPS 1.2 vsftpd", func() putFigure { return b.vsftpd("1.2", "") }},
		{"FTPS 1.2 vsftpd, ssl_ciphers=HIGH", func() putFigure { return b.vsftpd("1.2", "ssl_ciphers=HIGH") }},
		{"FTPS 1.3 transferd", func() putFigure { return b.ours("1.3") }},
		{"FTPS 1.3 vsftpd", func() putFigure { return b.vsftpd("1.3", "") }},
		{"SFTP transferd, aes128-gcm", b.oursSFTP},
	}
	for round := range *benchFTPRounds {
		for i := range variants {
			v := variants[(i+round)%len(variants)] // nobody is always after the same neighbour
			figures[v.name] = append(figures[v.name], v.run())
		}
	}
	t.Logf("1 GiB, %d rounds, one after the other; transferd's store: %s", *benchFTPRounds, b.store)
	t.Logf("%-36s %28s  %24s", "median (min–max)", "MiB/s", "server CPU-s/GiB")
	for _, v := range variants {
		t.Logf("%-36s %28s  %24s", v.name, spreadOf(figures[v.name], func(f putFigure) float64 { return 1024 / f.seconds }),
			spreadOf(figures[v.name], func(f putFigure) float64 { return f.cpu }))
	}
	for _, pair := range [][2]string{
		{"FTP transferd", "FTP vsftpd"}, {"FTPS 1.2 transferd", "FTPS 1.2 vsftpd"}, {"FTPS 1.2 transferd", "FTPS 1.2 vsftpd, ssl_ciphers=HIGH"},
		{"FTPS 1.3 transferd", "FTPS 1.3 vsftpd"}, {"FTPS 1.3 transferd", "SFTP transferd, aes128-gcm"}, {"FTP transferd", "SFTP transferd, aes128-gcm"},
	} {
		var speed, cpu []float64
		for i, ours := range figures[pair[0]] {
			theirs := figures[pair[1]][i]
			speed, cpu = append(speed, theirs.seconds/ours.seconds), append(cpu, ours.cpu/theirs.cpu)
		}
		t.Logf("ratio %s / %s: throughput %s, server CPU %s", pair[0], pair[1], spread(speed), spread(cpu))
	}
}

func spreadOf(figures []putFigure, value func(putFigure) float64) string {
	var v []float64
	for _, f := range figures {
		v = append(v, value(f))
	}
	return spread(v)
}

func newFTPBench(t *testing.T) *ftpBench {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "transferd-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &ftpBench{t: t, dir: dir, source: filepath.Join(dir, "source.bin"), key: filepath.Join(dir, "key"), rsa: filepath.Join(dir, "rsa.pem"), store: "EFS (a directory on tmpfs)"}
	if err := os.WriteFile(b.source, noise(1<<30), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", b.key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	writeRSA(t, b.rsa)
	users := ftpUsers(t, dir, []string{"bench"})
	b.p = startDaemon(t, startOptions{program: product(t), data: filepath.Join(dir, "data"), args: []string{"-users", users}})
	b.home(users)
	var id string
	// ENABLED, because curl does not resume in TLS 1.2.
	details := &types.ProtocolDetails{TlsSessionResumptionMode: types.TlsSessionResumptionModeEnabled}
	id, b.address = b.p.ftpServerOf(types.DomainEfs, details, "127.0.0.1:0", types.ProtocolFtp, types.ProtocolFtps, types.ProtocolSftp)
	b.p.await("SFTP listens", func() bool {
		b.sftp = b.p.tag(id, "aws:transferd:sftp-address")
		return b.sftp != ""
	})
	b.p.await("the user is known", func() bool { // the users file is looked at once a second
		return exec.CommandContext(t.Context(), "curl", "-sSk", "--ssl-reqd", "-u", "bench:"+ftpPassword, "ftp://"+b.address+"/").Run() == nil
	})
	return b
}

// writeRSA writes a certificate that signs itself, and its key, into one file.
func writeRSA(t *testing.T, name string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})...)
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// home gives the user a home in the daemon's file system, and the key.
func (b *ftpBench) home(users string) {
	b.t.Helper()
	const uid = 2001
	home := filepath.Join(b.p.env["EFS_DIR"], "bench")
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chown(home, uid, uid)); err != nil {
		b.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(mustRead(b.t, users)), "/"+devBucket+"/", "/"+b.p.env["EFS_FILE_SYSTEM_ID"]+"/") +
		fmt.Sprintf("    posix_profile: {uid: %[1]d, gid: %[1]d}\n    public_keys: [%[2]s]\n", uid, strings.TrimSpace(string(mustRead(b.t, b.key+".pub"))))
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// upload is curl's command for one of plain, 1.2 and 1.3.
func (b *ftpBench) upload(version, address, login string) *exec.Cmd {
	args := []string{"-sSk", "-T", b.source, "-u", login}
	if version != "plain" {
		args = append(args, "--ssl-reqd", "--tlsv1.2", "--tlsv"+version, "--tls-max", version)
	}
	return exec.CommandContext(b.t.Context(), "curl", append(args, "ftp://"+address+"/bench.bin")...)
}

func (b *ftpBench) measure(cmd *exec.Cmd) putFigure {
	b.t.Helper()
	before := cpuSeconds(b.t, b.p.cmd.Process.Pid)
	f := putFigure{seconds: timed(b.t, cmd)}
	f.cpu = cpuSeconds(b.t, b.p.cmd.Process.Pid) - before
	remove := exec.CommandContext(b.t.Context(), "curl", "-sSk", "--ssl-reqd", "-u", "bench:"+ftpPassword, "-Q", "DELE bench.bin", "-l", "ftp://"+b.address+"/")
	timed(b.t, remove)
	return f
}

func (b *ftpBench) ours(version string) putFigure {
	b.t.Helper()
	return b.measure(b.upload(version, b.address, "bench:"+ftpPassword))
}

func (b *ftpBench) oursSFTP() putFigure {
	b.t.Helper()
	host, port := splitPort(b.sftp)
	cmd := exec.CommandContext(b.t.Context(), "sftp", "-F", "/dev/null", "-i", b.key, "-oBatchMode=yes", "-oStrictHostKeyChecking=no",
		"-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-oCiphers=aes128-gcm@openssh.com", "-oPort="+port, "-b", "-", "bench@"+host)
	cmd.Stdin = strings.NewReader("put " + b.source + " bench.bin\n")
	return b.measure(cmd)
}

// vsftpd runs a vsftpd for one upload: its CPU time is what wait4 tells of it and its descendants.
func (b *ftpBench) vsftpd(version, more string) putFigure {
	t := b.t
	t.Helper()
	// vsftpd wants a root that its user cannot write to.
	root := filepath.Join(b.dir, "vsftpd")
	up := filepath.Join(root, "up")
	if err := os.MkdirAll(up, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(up, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	for _, d := range []string{b.dir, root} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll("/var/run/vsftpd/empty", 0o755); err != nil {
		t.Fatal(err)
	}
	secure := map[bool]string{true: "YES", false: "NO"}[version != "plain"]
	port, config := freePort(t), filepath.Join(b.dir, "vsftpd.conf")
	text := fmt.Sprintf(vsftpdConfig, port, root, secure, b.rsa, b.rsa, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(context.WithoutCancel(t.Context()), "/usr/sbin/vsftpd", config)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, port)
	cmd := b.upload(version, net.JoinHostPort("127.0.0.1", port)+"/up", "anonymous:x")
	f := putFigure{seconds: timed(t, cmd)}
	if err := os.Remove(filepath.Join(up, "bench.bin")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // let vsftpd reap the session, so that wait4 counts it
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait() // ended by the signal
	f.cpu = (daemon.ProcessState.UserTime() + daemon.ProcessState.SystemTime()).Seconds()
	return f
}

package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"testing"
)

// resumptions is how often an upload is cut before it comes to its end.
const resumptions = 20

// TestResumedUploads: an upload to S3 that is cut twenty times and gone on with is the file that its client has, and
// one OnUpload; each cut that had brought bytes is one OnPartialUpload.
func TestResumedUploads(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, partial := p.attachWorkflows()
	name, content := file(t, 16<<20)
	const remote = "reput.bin"
	cuts := 0
	for range resumptions {
		if p.cutReput(t, name, remote, 1+rand.IntN(len(content)/resumptions)) {
			cuts++
		}
	}
	if got := len(p.object(remote)); got == 0 || got >= len(content) {
		t.Fatalf("after %d cuts the object has %d bytes of %d", cuts, got, len(content))
	}
	batch(t, p, "reput \""+name+"\" "+remote)
	if got := p.object(remote); !bytes.Equal(got, content) {
		t.Errorf("the object is %s, want %s", sum(got), sum(content))
	}
	p.awaitExecution(whole, remote)
	p.await("an execution for each cut", func() bool { return len(p.executions(partial, remote)) >= cuts })
	if n, m := len(p.executions(whole, remote)), len(p.executions(partial, remote)); n != 1 || m != cuts {
		t.Errorf("%d OnUpload, want 1; %d OnPartialUpload, want %d", n, m, cuts)
	}
	if left := p.danglingUploads(); len(left) != 0 {
		t.Errorf("multipart uploads are left: %v", left)
	}
	p.stop()
}

// cutReput runs OpenSSH's reput over a connection that breaks after about so many bytes from the client, and says
// whether the daemon had bytes of the file then.
func (p *proc) cutReput(t *testing.T, name, remote string, after int) bool {
	t.Helper()
	before := len(p.logged("PARTIAL_CLOSE"))
	addr, cut := breakingProxy(t, net.JoinHostPort(p.env["SFTP_HOST"], p.env["SFTP_PORT"]), int64(after))
	_, port := splitPort(addr)
	cmd := exec.CommandContext(t.Context(), "sftp", "-F", "/dev/null", "-i", p.env["SFTP_KEY"], "-oIdentitiesOnly=yes", "-oBatchMode=yes",
		"-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-oPort="+port, "-b", "-", p.env["SFTP_USER"]+"@127.0.0.1")
	verb := "reput"
	if p.object(remote) == nil {
		verb = "put"
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(stdin, verb+" \""+name+"\" "+remote+"\n")
	if err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	if cmd.Wait() == nil {
		t.Error("the client noticed no cut")
	}
	<-cut
	p.await("the end of the session", func() bool { return p.metric(`transferd_sessions{protocol="SFTP"}`) == 0 })
	for _, e := range p.logged("PARTIAL_CLOSE")[before:] {
		if e["bytes-in"] != "0" {
			return true
		}
	}
	return false
}

// breakingProxy passes one connection on until the client has sent so many bytes after the first 16 KiB, which are
// about the handshake; then it breaks both sides. The channel is closed then.
func breakingProxy(t *testing.T, to string, after int64) (addr string, cut <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close() // it may be closed already
		serving.Wait()
	})
	serving.Go(func() {
		defer close(done)
		in, err := l.Accept()
		_ = l.Close() // one connection is all
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		serving.Go(func() {
			_, _ = io.Copy(in, out) // ends with the connection
			_ = in.Close()
		})
		_, _ = io.CopyN(out, in, 16<<10+after) // the client may be gone before
	})
	return l.Addr().String(), done
}

// TestResumedFTP: curl goes on with an upload to S3 over FTP (APPE), and is killed at random moments.
func TestResumedFTP(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, partial := p.attachWorkflowsToFTP()
	_, content := file(t, 12<<20)
	curl := func() *exec.Cmd {
		return exec.CommandContext(t.Context(), "curl", "-sS", "--append", "-T", "-", "-u", p.env["FTP_USER"]+":"+p.env["FTP_PASSWORD"],
			"ftp://127.0.0.1:"+p.env["FTP_PORT"]+"/curl.bin")
	}
	const received = `transferd_bytes_total{direction="in",protocol="FTP"}`
	for cut := range resumptions {
		before, sent := p.metric(received), len(p.object("curl.bin"))
		cmd := curl()
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(content[sent : sent+1+rand.IntN(len(content)/resumptions)]); err != nil {
			t.Fatal(err)
		}
		p.await("bytes of the file", func() bool { return p.metric(received) > before })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		p.await("the verdict on the cut upload", func() bool { return len(p.logged("PARTIAL_CLOSE")) == cut+1 })
	}
	if got := len(p.object("curl.bin")); got == 0 || got >= len(content) {
		t.Fatalf("the object has %d bytes of %d", got, len(content))
	}
	cmd := curl()
	cmd.Stdin = bytes.NewReader(content[len(p.object("curl.bin")):])
	succeed(t, cmd)
	if got := p.object("curl.bin"); !bytes.Equal(got, content) {
		t.Errorf("the object is %s, want %s", sum(got), sum(content))
	}
	p.awaitExecution(whole, "curl.bin")
	p.await("an execution for each cut", func() bool { return len(p.executions(partial, "curl.bin")) >= resumptions })
	if n, m := len(p.executions(whole, "curl.bin")), len(p.executions(partial, "curl.bin")); n != 1 || m != resumptions {
		t.Errorf("%d OnUpload, want 1; %d OnPartialUpload, want %d", n, m, resumptions)
	}
	p.stop()
}

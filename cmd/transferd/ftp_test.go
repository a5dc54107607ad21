package main

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
)

// attachWorkflowsToFTP attaches the workflows of attachWorkflows to the dev server of FTP too.
func (p *proc) attachWorkflowsToFTP() (whole, partial string) {
	p.t.Helper()
	whole, partial = p.attachWorkflows()
	s, err := p.api().DescribeServer(p.t.Context(), &transfer.DescribeServerInput{ServerId: aws.String(p.env["SERVER_ID"])})
	if err == nil {
		_, err = p.api().UpdateServer(p.t.Context(), &transfer.UpdateServerInput{
			ServerId: aws.String(p.env["FTP_SERVER_ID"]), WorkflowDetails: s.Server.WorkflowDetails,
		})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return whole, partial
}

// TestFTP: curl and lftp upload over FTP and FTPS and each file has its workflow; a client that is killed while it sends
// leaves a partial upload.
func TestFTP(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, partial := p.attachWorkflowsToFTP()
	name, content := file(t, 3<<20)
	user, ca, port := p.env["FTP_USER"]+":"+p.env["FTP_PASSWORD"], filepath.Join(p.data, "ftp.crt"), p.env["FTP_PORT"]
	lftp := "set ssl:ca-file " + ca + "; set ftp:ssl-force true; put " + name + " -o lftp-ftps.bin; bye"
	for key, command := range map[string]*exec.Cmd{
		"ftp.bin":       exec.CommandContext(t.Context(), "curl", "-sS", "-T", name, "-u", user, "ftp://127.0.0.1:"+port+"/ftp.bin"),
		"ftps.bin":      exec.CommandContext(t.Context(), "curl", "-sS", "--ssl-reqd", "--cacert", ca, "-T", name, "-u", user, "ftp://localhost:"+port+"/ftps.bin"),
		"lftp-ftps.bin": exec.CommandContext(t.Context(), "lftp", "-u", p.env["FTP_USER"]+","+p.env["FTP_PASSWORD"], "-e", lftp, "ftp://localhost:"+port),
	} {
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", key, err, out)
		}
		if !bytes.Equal(p.object(key), content) {
			t.Errorf("%s is not what was sent", key)
		}
		p.awaitExecution(whole, key)
	}

	cut := exec.CommandContext(t.Context(), "curl", "-sS", "--ssl-reqd", "--cacert", ca, "-T", "-", "-u", user, "ftp://localhost:"+port+"/cut.bin")
	in, err := cut.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cut.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(in, bytes.NewReader(content)); err != nil { // what the pipe takes has been read by curl
		t.Fatal(err)
	}
	if err := cut.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cut.Wait() // it was killed
	p.awaitExecution(partial, "cut.bin")
	if n := len(p.executions(whole, "cut.bin")); n != 0 {
		t.Errorf("a cut upload has %d executions of OnUpload", n)
	}
}

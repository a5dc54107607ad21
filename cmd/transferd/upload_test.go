package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
)

func serverID(s string) server.ID { return server.ID(s) }

// TestWholeUpload: the aws CLI does the whole set-up, OpenSSH's sftp puts 100 MiB, and OnUpload runs once.
func TestWholeUpload(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	id := p.env["SERVER_ID"]

	steps := `[{"Type":"COPY","CopyStepDetails":{"Name":"copy","DestinationFileLocation":{"S3FileLocation":{"Bucket":"dev-bucket","Key":"processed/${transfer:UserName}/"}}}},
		{"Type":"TAG","TagStepDetails":{"Name":"tag","Tags":[{"Key":"status","Value":"processed"}]}}]`
	whole := p.aws("create-workflow", "--description", "whole", "--steps", steps)["WorkflowId"].(string)
	partial := p.aws("create-workflow", "--description", "cut", "--steps", steps)["WorkflowId"].(string)
	p.aws("update-server", "--server-id", id, "--workflow-details",
		fmt.Sprintf("OnUpload=[{WorkflowId=%s,ExecutionRole=%s}],OnPartialUpload=[{WorkflowId=%s,ExecutionRole=%s}]", whole, devRole, partial, devRole))
	key := filepath.Join(t.TempDir(), "id")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	p.aws("create-user", "--server-id", id, "--user-name", "alice", "--role", devRole, "--home-directory", "/dev-bucket/home/alice")
	p.aws("import-ssh-public-key", "--server-id", id, "--user-name", "alice", "--ssh-public-key-body", "file://"+key+".pub")

	name, content := file(t, 100<<20)
	p.env["SFTP_KEY"] = key
	cmd := p.sftpCommand(t.Context(), "alice", "put "+name+" big.bin\nls -l\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "104857600") {
		t.Fatalf("sftp: %v\n%s", err, out)
	}

	e := p.awaitExecution(whole, "home/alice/big.bin")
	if e.Status != types.ExecutionStatusCompleted || len(e.Results.Steps) != 2 || e.Results.Steps[0].Error != nil || e.Results.Steps[1].Error != nil {
		t.Errorf("execution is %s with %+v", e.Status, e.Results)
	}
	list := p.aws("list-executions", "--workflow-id", whole)["Executions"].([]any)
	if len(list) != 1 {
		t.Errorf("list-executions has %d executions, want 1", len(list))
	}
	described := p.aws("describe-execution", "--workflow-id", whole, "--execution-id", aws.ToString(e.ExecutionId))["Execution"].(map[string]any)
	if described["Status"] != "COMPLETED" {
		t.Errorf("describe-execution says %v", described)
	}
	if n := len(p.aws("list-executions", "--workflow-id", partial)["Executions"].([]any)); n != 0 {
		t.Errorf("%d executions for partial uploads", n)
	}
	for _, k := range []string{"home/alice/big.bin", "processed/alice/big.bin"} {
		if got := p.object(k); !bytes.Equal(got, content) {
			t.Errorf("%s is %s, want %s", k, sum(got), sum(content))
		}
	}
	tags, err := p.s3().GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: aws.String(devBucket), Key: aws.String("processed/alice/big.bin")})
	if err != nil || len(tags.TagSet) != 1 || aws.ToString(tags.TagSet[0].Value) != "processed" {
		t.Errorf("tags: %v %+v", err, tags)
	}
	if u := p.danglingUploads(); len(u) != 0 {
		t.Errorf("multipart uploads left: %v", u)
	}
	p.stop()
}

// TestCutUpload: however the client goes away in mid-put, there is exactly one OnPartialUpload execution, the object is
// an exact prefix, and the evidence says why.
func TestCutUpload(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{args: []string{"-keepalive", "1s"}})
	whole, partial := p.attachWorkflows()
	name, content := file(t, 200<<20)

	cuts := []struct {
		name     string
		evidence string
		cut      func(t *testing.T, remote string)
	}{
		{"kill -9 of OpenSSH's sftp", "disconnect", func(t *testing.T, remote string) {
			cmd := p.putSlowly(t, name, remote)
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // killed, as asked
		}},
		{"reset of the TCP connection", "disconnect", func(t *testing.T, remote string) {
			conn := p.putPart(t, remote, content[:20<<20])
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"client that stops reading and writing", "timeout", func(t *testing.T, remote string) {
			cmd := p.putSlowly(t, name, remote)
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				_ = cmd.Wait() // killed, as asked
			})
		}},
	}
	for i, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			remote := fmt.Sprintf("cut-%d.bin", i)
			c.cut(t, remote)
			e := p.awaitExecution(partial, remote)
			if e.Status != types.ExecutionStatusCompleted {
				t.Errorf("execution ended as %s: %+v", e.Status, e.Results)
			}
			if n := len(p.executions(partial, remote)); n != 1 {
				t.Errorf("%d executions for the partial upload", n)
			}
			if n := len(p.executions(whole, remote)); n != 0 {
				t.Errorf("%d executions for a whole upload", n)
			}
			got := p.object(remote)
			if len(got) == 0 || len(got) == len(content) || !bytes.HasPrefix(content, got) {
				t.Errorf("the object is %s: no exact prefix of the file", sum(got))
			}
			if copied := p.object("quarantine/" + remote); !bytes.Equal(copied, got) {
				t.Errorf("the copy is %s, the object %s", sum(copied), sum(got))
			}
			p.wantEvidence(remote, c.evidence)
			t.Logf("%s: %d of %d bytes kept, evidence %s, one OnPartialUpload execution", c.name, len(got), len(content), c.evidence)
		})
	}
	if u := p.danglingUploads(); len(u) != 0 {
		t.Errorf("multipart uploads left: %v", u)
	}
	p.stop()
}

// wantEvidence looks for the one PARTIAL_CLOSE entry of a file.
func (p *proc) wantEvidence(remote, evidence string) {
	p.t.Helper()
	var found []any
	for _, entry := range p.logged("PARTIAL_CLOSE") {
		if entry["path"] == "/"+devBucket+"/"+remote {
			found = append(found, entry["evidence"])
		}
	}
	if len(found) != 1 || found[0] != evidence {
		p.t.Errorf("PARTIAL_CLOSE entries of %s have evidence %v, want one with %q", remote, found, evidence)
	}
}

// putSlowly starts OpenSSH's sftp with a bandwidth limit and returns when the daemon has part of the file.
func (p *proc) putSlowly(t *testing.T, name, remote string) *exec.Cmd {
	t.Helper()
	cmd := p.sftpCommand(context.WithoutCancel(t.Context()), p.env["SFTP_USER"], "put "+name+" "+remote+"\n", "-l", "160000") // Kbit/s
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.await("some bytes of "+remote, func() bool { return p.sizeSoFar() >= 9<<20 })
	return cmd
}

// sizeSoFar is how many bytes of a file the daemon has stored in parts, asked from the store.
func (p *proc) sizeSoFar() int64 {
	p.t.Helper()
	out, err := p.s3().ListMultipartUploads(p.t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(devBucket)})
	if err != nil {
		p.t.Fatal(err)
	}
	var n int64
	for _, u := range out.Uploads {
		parts, err := p.s3().ListParts(p.t.Context(), &s3.ListPartsInput{Bucket: aws.String(devBucket), Key: u.Key, UploadId: u.UploadId})
		if err != nil {
			return n // completed or aborted between the two questions
		}
		for _, part := range parts.Parts {
			n += aws.ToInt64(part.Size)
		}
	}
	return n * 2 // one part of 8 MiB stored means that more than that has come
}

// putPart writes the bytes over a connection of our own and leaves the file open.
func (p *proc) putPart(t *testing.T, remote string, content []byte) net.Conn {
	t.Helper()
	conn, client := p.dial()
	f, err := client.OpenFile(remote, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestFileOperations: the commands of AWS's list, with OpenSSH's sftp.
func TestFileOperations(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	name, content := file(t, 3<<20+17)
	back := filepath.Join(t.TempDir(), "back.bin")
	out := p.sftp(strings.Join([]string{
		"pwd", "mkdir sub", "put " + name + " sub/a.bin", "ls -l sub", "rename sub/a.bin sub/b.bin", "get sub/b.bin " + back,
		"-rmdir sub", "rm sub/b.bin", "rmdir sub", "-ls sub", "-get nowhere.bin", "put " + name + " -", "rm -", "",
	}, "\n"))
	for _, want := range []string{"Remote working directory: /", "3145745"} {
		if !strings.Contains(out, want) {
			t.Errorf("sftp did not print %q:\n%s", want, out)
		}
	}
	if got := mustRead(t, back); !bytes.Equal(got, content) {
		t.Errorf("get returned %s, want %s", sum(got), sum(content))
	}
	shown := strings.NewReplacer(name, "", back, "").Replace(out) // our own temporary names may have any letters
	if strings.Contains(shown, "s3") || strings.Contains(shown, "goroutine") {
		t.Errorf("the output has a backend's words:\n%s", out)
	}
	p.stop()
}

// TestEmptyFile: a file of zero bytes is stored and starts no workflow.
func TestEmptyFile(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, _ := p.attachWorkflows()
	empty, _ := file(t, 0)
	one, _ := file(t, 1)
	p.sftp("put " + empty + " empty.bin\nput " + one + " one.bin\n")
	p.awaitExecution(whole, "one.bin")
	if n := len(p.executions(whole, "empty.bin")); n != 0 {
		t.Errorf("%d executions for an empty file", n)
	}
	if _, err := p.s3().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(devBucket), Key: aws.String("empty.bin")}); err != nil {
		t.Errorf("the empty object: %v", err)
	}
}

// TestDrain: SIGTERM with a file open ends the session with a verdict, and the workflow runs after the next start.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{args: []string{"-drain", "1s"}})
	_, partial := p.attachWorkflows()
	content := noise(12 << 20)
	conn := p.putPart(t, "drained.bin", content)
	defer conn.Close() // the daemon closes it first
	begun := time.Now()
	p.stop()
	t.Logf("stopped in %v", time.Since(begun).Round(time.Millisecond))
	p.wantEvidence("drained.bin", "server-stop")

	again := startDaemon(t, startOptions{data: p.data})
	e := again.awaitExecution(partial, "drained.bin")
	if e.Status != types.ExecutionStatusCompleted {
		t.Errorf("execution ended as %s", e.Status)
	}
	if got := again.object("drained.bin"); !bytes.Equal(got, content) {
		t.Errorf("the object is %s, want %s", sum(got), sum(content))
	}
}

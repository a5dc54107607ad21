package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/workflow/steps/gnupgtest"
)

var largeMessage = flag.Int("decrypt-mib", 8, "how many MiB TestDecryptMemory has DECRYPT decrypt")

// front is a server of the daemon, and who uploads there.
type front struct {
	server, host, port, user string
}

func (p *proc) front() front {
	return front{p.env["SERVER_ID"], p.env["SFTP_HOST"], p.env["SFTP_PORT"], p.env["SFTP_USER"]}
}

// serverOf is a server with a domain.
func (p *proc) serverOf(domain types.Domain) string {
	p.t.Helper()
	list, err := p.api().ListServers(p.t.Context(), &transfer.ListServersInput{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, s := range list.Servers {
		if s.Domain == domain {
			return aws.ToString(s.ServerId)
		}
	}
	p.t.Fatalf("no server with the domain %s", domain)
	return ""
}

func (p *proc) use(f front) {
	p.env["SERVER_ID"], p.env["SFTP_HOST"], p.env["SFTP_PORT"], p.env["SFTP_USER"] = f.server, f.host, f.port, f.user
}

// runs attaches a workflow of these steps alone, uploads a file and returns the execution's end.
func (p *proc) runs(f front, name string, content []byte, steps ...types.WorkflowStep) *types.DescribedExecution {
	p.t.Helper()
	return p.awaitAny(p.begins(f, name, content, steps...))
}

// begins is runs without the end. It returns the workflow.
func (p *proc) begins(f front, name string, content []byte, steps ...types.WorkflowStep) string {
	p.t.Helper()
	flow, err := p.api().CreateWorkflow(p.t.Context(), &transfer.CreateWorkflowInput{Steps: steps})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.api().UpdateServer(p.t.Context(), &transfer.UpdateServerInput{
		ServerId: &f.server, WorkflowDetails: &types.WorkflowDetails{OnUpload: []types.WorkflowDetail{{
			WorkflowId: flow.WorkflowId, ExecutionRole: aws.String("arn:aws:iam::000000000000:role/workflow")}}},
	}); err != nil {
		p.t.Fatal(err)
	}
	p.use(f)
	conn, client := p.dial()
	defer conn.Close()
	w, err := client.Create(name)
	if err == nil {
		_, err = io.Copy(w, bytes.NewReader(content))
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return aws.ToString(flow.WorkflowId)
}

// awaitAny waits for the end of a workflow's only execution.
func (p *proc) awaitAny(flow string) *types.DescribedExecution {
	p.t.Helper()
	var ended *types.DescribedExecution
	p.await("an ended execution of "+flow, func() bool {
		list, err := p.api().ListExecutions(p.t.Context(), &transfer.ListExecutionsInput{WorkflowId: &flow})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, e := range list.Executions {
			if e.Status == types.ExecutionStatusCompleted || e.Status == types.ExecutionStatusException {
				out, err := p.api().DescribeExecution(p.t.Context(), &transfer.DescribeExecutionInput{WorkflowId: &flow, ExecutionId: e.ExecutionId})
				if err != nil {
					p.t.Fatal(err)
				}
				ended = out.Execution
			}
		}
		return ended != nil
	})
	return ended
}

func onS3(bucket, key string) *types.InputFileLocation {
	return &types.InputFileLocation{S3FileLocation: &types.S3InputFileLocation{Bucket: &bucket, Key: &key}}
}

func onEFS(id, path string) *types.InputFileLocation {
	return &types.InputFileLocation{EfsFileLocation: &types.EfsFileLocation{FileSystemId: &id, Path: &path}}
}

func copyStep(to *types.InputFileLocation) types.WorkflowStep {
	return types.WorkflowStep{Type: types.WorkflowStepTypeCopy, CopyStepDetails: &types.CopyStepDetails{DestinationFileLocation: to}}
}

func overwrites(s types.WorkflowStep) types.WorkflowStep {
	if s.CopyStepDetails != nil {
		s.CopyStepDetails.OverwriteExisting = types.OverwriteExistingTrue
	} else {
		s.DecryptStepDetails.OverwriteExisting = types.OverwriteExistingTrue
	}
	return s
}

func deleteStep() types.WorkflowStep {
	return types.WorkflowStep{Type: types.WorkflowStepTypeDelete, DeleteStepDetails: &types.DeleteStepDetails{}}
}

func decryptStep(to *types.InputFileLocation) types.WorkflowStep {
	return types.WorkflowStep{Type: types.WorkflowStepTypeDecrypt, DecryptStepDetails: &types.DecryptStepDetails{
		Type: types.EncryptionTypePgp, DestinationFileLocation: to}}
}

// content is a file in the dev bucket or file system, given as S3:NAME or EFS:NAME; nil if there is none.
func (p *proc) content(at string) []byte {
	p.t.Helper()
	domain, name, _ := strings.Cut(at, ":")
	if domain == "S3" {
		return p.object(name)
	}
	b, err := os.ReadFile(filepath.Join(p.env["EFS_DIR"], name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.t.Fatal(err)
	}
	return b
}

// checkOwners: what steps make on a file system belongs to the uploader, and to the daemon if the upload came to S3.
// Nothing hidden stays.
func (p *proc) checkOwners() {
	p.t.Helper()
	for name, uid := range map[string]uint32{"anna/sub": 2001, "anna/sub/copy": 2001, "anna/plain/f": 2001, "round/round": uint32(os.Getuid())} {
		info, err := os.Stat(filepath.Join(p.env["EFS_DIR"], name))
		if err != nil {
			p.t.Error(err)
		} else if st := info.Sys().(*syscall.Stat_t); st.Uid != uid {
			p.t.Errorf("%s belongs to %d, want %d", name, st.Uid, uid)
		}
	}
	err := filepath.WalkDir(p.env["EFS_DIR"], func(path string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".") {
			p.t.Errorf("%s stays", path)
		}
		return err
	})
	if err != nil {
		p.t.Error(err)
	}
	if left := p.danglingUploads(); len(left) > 0 {
		p.t.Errorf("unfinished uploads %v", left)
	}
}

// TestDecryptMemory has a large message decrypted, and prints what memory the daemon had at most:
// go test ./cmd/transferd -run TestDecryptMemory -decrypt-mib 2048 -v
func TestDecryptMemory(t *testing.T) {
	t.Parallel()
	g := gnupgtest.New(t)
	g.Key("key", "rsa", "")
	p := startDaemon(t, startOptions{args: []string{"-buffers", fmt.Sprint(64 << 20)}})
	writeSecret(t, filepath.Join(p.data, "secrets", "aws", "transfer", p.env["SERVER_ID"], p.env["SFTP_USER"]+".json"),
		map[string]string{"PGPPrivateKey": g.Private("key", "")})
	plain := noise(*largeMessage << 20)
	small, large := g.Encrypt(plain[:1000], "key"), g.EncryptFile(plain, "key")
	for _, message := range [][]byte{small, large} {
		e := p.runs(p.front(), fmt.Sprint("message", len(message)), message, decryptStep(onS3(devBucket, "plain/")))
		if shown(e) != "DECRYPT ok" {
			t.Fatalf("%s: %+v", shown(e), e.Results)
		}
		t.Logf("a message of %d bytes: the daemon had at most %s", len(message), p.peak())
	}
	if got, want := p.objectSum(fmt.Sprint("plain/message", len(large))), sum(plain); got != want {
		t.Errorf("the plaintext is %s, want %s", got, want)
	}
}

// peak is the daemon's largest resident set.
func (p *proc) peak() string {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.TrimSpace(value)
		}
	}
	p.t.Fatal("no VmHWM")
	return ""
}

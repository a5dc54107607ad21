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

	"github.com/transferd/transferd/storage/efs"
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
	return p.awaitAny(aws.ToString(flow.WorkflowId))
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

// stepCase is a workflow on an upload, and what becomes of it.
type stepCase struct {
	name    string
	content []byte
	steps   []types.WorkflowStep
	want    string // as shown has it
	message string // of the last step
	file    string // that holds made; "" is none
	made    []byte
}

// TestSteps: every type of step in both domains, its success and its errors, as DescribeExecution shows them.
func TestSteps(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	g := gnupgtest.New(t)
	g.Key("key", "curve", "")
	g.Key("other", "curve", "")
	p := startDaemon(t, startOptions{})
	bucket := p.front()
	p.efsServer()
	disk := p.front()
	disk.server = p.serverOf(types.DomainEfs)
	for _, f := range []front{bucket, disk} {
		writeSecret(t, filepath.Join(p.data, "secrets", "aws", "transfer", f.server, "@pgp-default.json"),
			map[string]string{"PGPPrivateKey": g.Private("key", "")})
	}
	id := p.env["EFS_FILE_SYSTEM_ID"]
	s3To := func(key string) *types.InputFileLocation { return onS3(devBucket, key) }
	efsTo := func(path string) *types.InputFileLocation { return onEFS(id, path) }
	plain := []byte("words and more of them")
	sealed := g.Encrypt(plain, "key")
	broken := bytes.Clone(sealed)
	broken[len(broken)-10] ^= 1
	steps := func(s ...types.WorkflowStep) []types.WorkflowStep { return s }
	const cannotTag, damaged = "Cannot tag Efs file", "it was changed or cut short after it was encrypted."
	for domain, cases := range map[string][]stepCase{
		"S3": {
			{"copy", plain, steps(copyStep(s3To("kept/${transfer:UserName}/"))), "COPY ok", "", "S3:kept/" + bucket.user + "/copy", plain},
			{"onto", plain, steps(copyStep(s3To("onto"))), "COPY BAD_REQUEST", "onto itself", "", nil},
			{"stands", plain, steps(copyStep(s3To("x")), copyStep(s3To("x"))), "COPY ok, COPY BAD_REQUEST", "onto itself", "S3:x", plain},
			{"taken", []byte("new"), steps(copyStep(s3To("x"))), "COPY ALREADY_EXISTS", "the target exists", "S3:x", plain},
			{"replaced", []byte("new"), steps(overwrites(copyStep(s3To("x")))), "COPY ok", "", "S3:x", []byte("new")},
			{"nobucket", plain, steps(copyStep(onS3("there-is-none", "x"))), "COPY NOT_FOUND", "there-is-none", "", nil},
			{"tofs", plain, steps(copyStep(efsTo("/from-s3/${transfer:UploadDate}/f"))), "COPY ok", "", "", nil},
			{"round", plain, steps(copyStep(efsTo("/round/")), copyStep(s3To("round-again")), deleteStep()), "COPY ok, COPY ok, DELETE ok", "", "EFS:round/round", plain},
			{"tofstaken", []byte("new"), steps(copyStep(efsTo("/round/round"))), "COPY ALREADY_EXISTS", "the target exists", "EFS:round/round", plain},
			{"tofsreplaced", []byte("new"), steps(overwrites(copyStep(efsTo("/round/round")))), "COPY ok", "", "EFS:round/round", []byte("new")},
			{"nofs", plain, steps(copyStep(onEFS("fs-00000000", "/x"))), "COPY NOT_FOUND", "fs-00000000", "", nil},
			{"tag", plain, steps(tagStep("tagged")), "TAG ok", "", "S3:tag", plain},
			{"delete", plain, steps(deleteStep(), deleteStep()), "DELETE ok, DELETE NOT_FOUND", "no such file", "", nil},
			{"untagged", plain, steps(deleteStep(), tagStep("x")), "DELETE ok, TAG NOT_FOUND", "no such file", "", nil},
			{"uncopied", plain, steps(deleteStep(), copyStep(s3To("y"))), "DELETE ok, COPY NOT_FOUND", "no such file", "S3:y", nil},
			{"open.gpg", sealed, steps(decryptStep(s3To("plain/")), tagStep("opened")), "DECRYPT ok, TAG ok", "", "S3:plain/open.gpg", plain},
			{"opentaken", sealed, steps(decryptStep(s3To("replaced"))), "DECRYPT ALREADY_EXISTS", "the target exists", "S3:replaced", []byte("new")},
			{"openreplaced", sealed, steps(overwrites(decryptStep(s3To("replaced")))), "DECRYPT ok", "", "S3:replaced", plain},
			{"opentofs", sealed, steps(decryptStep(efsTo("/plain/f"))), "DECRYPT ok", "", "EFS:plain/f", plain},
			{"openbroken", broken, steps(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", damaged, "S3:never", nil},
			{"opentext", plain, steps(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", "it is no OpenPGP message", "S3:never", nil},
			{"openother", g.Encrypt(plain, "other"), steps(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", "none of the keys", "S3:never", nil},
			{"opengone", sealed, steps(deleteStep(), decryptStep(s3To("never"))), "DELETE ok, DECRYPT NOT_FOUND", "no such file", "S3:never", nil},
		},
		"EFS": {
			{"copy", plain, steps(copyStep(efsTo("/${transfer:UserName}/sub/"))), "COPY ok", "", "EFS:anna/sub/copy", plain},
			{"taken", []byte("new"), steps(copyStep(efsTo("/anna/sub/copy"))), "COPY ALREADY_EXISTS", "the target exists", "EFS:anna/sub/copy", plain},
			{"replaced", []byte("new"), steps(overwrites(copyStep(efsTo("/anna/sub/copy")))), "COPY ok", "", "EFS:anna/sub/copy", []byte("new")},
			{"others", plain, steps(copyStep(efsTo("/ben/f"))), "COPY PERMISSION_DENIED", "access denied", "EFS:ben/f", nil},
			{"onto", plain, steps(copyStep(efsTo("/anna/"))), "COPY BAD_REQUEST", "onto itself", "", nil},
			{"tos3", plain, steps(copyStep(s3To("from-efs/")), tagStep("there")), "COPY ok, TAG ok", "", "S3:from-efs/tos3", plain},
			{"tag", plain, steps(tagStep("x")), "TAG BAD_REQUEST", cannotTag, "", nil},
			{"delete", plain, steps(deleteStep(), deleteStep()), "DELETE ok, DELETE NOT_FOUND", "no such file", "EFS:anna/delete", nil},
			{"uncopied", plain, steps(deleteStep(), copyStep(efsTo("/anna/y"))), "DELETE ok, COPY NOT_FOUND", "no such file", "EFS:anna/y", nil},
			{"open", sealed, steps(decryptStep(efsTo("/anna/plain/f"))), "DECRYPT ok", "", "EFS:anna/plain/f", plain},
			{"opentaken", sealed, steps(decryptStep(efsTo("/anna/onto"))), "DECRYPT ALREADY_EXISTS", "the target exists", "EFS:anna/onto", plain},
			{"openbroken", broken, steps(overwrites(decryptStep(efsTo("/anna/plain/f")))), "DECRYPT BAD_REQUEST", damaged, "EFS:anna/plain/f", plain},
			{"openothers", sealed, steps(decryptStep(efsTo("/ben/f"))), "DECRYPT PERMISSION_DENIED", "access denied", "EFS:ben/f", nil},
			{"opentos3", sealed, steps(decryptStep(s3To("from-efs/opened"))), "DECRYPT ok", "", "S3:from-efs/opened", plain},
			{"opentext", plain, steps(decryptStep(efsTo("/anna/never"))), "DECRYPT BAD_REQUEST", "it is no OpenPGP message", "EFS:anna/never", nil},
		},
	} {
		f := map[string]front{"S3": bucket, "EFS": disk}[domain]
		for _, c := range cases { // in order: some work on what those before them made
			p.checkStep(f, domain, c)
		}
	}
	p.checkOwners()
}

func (p *proc) checkStep(f front, domain string, c stepCase) {
	p.t.Helper()
	e := p.runs(f, c.name, c.content, c.steps...)
	if got := shown(e); got != c.want || !strings.Contains(message(e), c.message) || c.message == "" && message(e) != "" {
		p.t.Errorf("%s %s: %s (%s), want %s (%s)", domain, c.name, got, message(e), c.want, c.message)
	}
	if last := e.Results.Steps[len(e.Results.Steps)-1]; last.StepType == types.WorkflowStepTypeTag && last.Error == nil && aws.ToString(last.Outputs) == "" {
		p.t.Errorf("%s %s: no outputs", domain, c.name)
	}
	if domain == "EFS" {
		if x := e.PosixProfile; x == nil || aws.ToInt64(x.Uid) != 2001 || len(x.SecondaryGids) != 1 || e.InitialFileLocation.EfsFileLocation == nil {
			p.t.Errorf("%s %s: PosixProfile %+v, file %+v", domain, c.name, x, e.InitialFileLocation)
		}
	}
	if c.file != "" {
		if got := p.content(c.file); !bytes.Equal(got, c.made) || (got == nil) != (c.made == nil) {
			p.t.Errorf("%s %s: %s holds %q, want %q", domain, c.name, c.file, got, c.made)
		}
	}
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

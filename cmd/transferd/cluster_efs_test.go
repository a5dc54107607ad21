package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/identity/usersfile"
)

// rigFiles is the file system that all daemons of such a rig mount.
const rigFiles = "fs-0123456789abcdef0"

// startFileRig starts two daemons that share a directory as a file system, with one server that has SFTP, FTP and FTPS, and
// workflows that copy whole files to /whole and cut ones to /cut.
func startFileRig(t *testing.T) (r *rig, dir, ca string) {
	t.Helper()
	r = newRig(t)
	etc := t.TempDir()
	if err := (devFlags{data: etc, ftp: "127.0.0.1:0"}).ensureCertificate(); err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(r.key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	dir, ca = t.TempDir(), filepath.Join(etc, "ftp.crt")
	users := filepath.Join(etc, "users.yaml")
	text := fmt.Sprintf("users:\n  - name: alice\n    role: %s\n    password_hash: %s\n    public_keys: [%q]\n    home_directory: /%s/in\n"+
		"    posix_profile: {uid: %d, gid: %d}\n", devRole, usersfile.HashPassword(ftpPassword), strings.TrimSpace(string(public)), rigFiles, os.Getuid(), os.Getgid())
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in", "whole", "cut"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.config = fmt.Sprintf("file_systems: {%s: {directory: %q, own_identity_only: true}}\nidentity: {users_file: %q}\n"+
		"certificates: {%q: {certificate: %q, key: %q}}\nftp: {host: 127.0.0.1, ports: 0, passive_ports: 0}\n",
		rigFiles, dir, users, devCertificate, ca, filepath.Join(etc, "ftp.key"))
	for range 2 {
		r.launch(t.TempDir())
	}
	for _, p := range r.nodes {
		r.awaitNode(p)
	}
	r.server, _ = r.nodes[0].ftpServerOf(types.DomainEfs, &types.ProtocolDetails{}, "127.0.0.1:0", types.ProtocolSftp, types.ProtocolFtp, types.ProtocolFtps)
	r.whole, r.partial = r.copyTo("/whole/"), r.copyTo("/cut/")
	one := func(id string) []types.WorkflowDetail {
		return []types.WorkflowDetail{{WorkflowId: aws.String(id), ExecutionRole: aws.String(devRole)}}
	}
	if _, err := r.nodes[0].api().UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: aws.String(r.server),
		WorkflowDetails: &types.WorkflowDetails{OnUpload: one(r.whole), OnPartialUpload: one(r.partial)}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range r.nodes {
		p.await("the node listens", func() bool {
			for _, e := range p.logEntries("msg", "server listens") {
				door, _ := e["door"].(string)
				address, _ := e["address"].(string)
				p.env[door+"_HOST"], p.env[door+"_PORT"] = splitPort(address)
			}
			return p.env["SFTP_PORT"] != "" && p.env["FTP_PORT"] != ""
		})
	}
	return r, dir, ca
}

// copyTo makes a workflow that copies a file within the file system.
func (r *rig) copyTo(folder string) string {
	r.t.Helper()
	out, err := r.nodes[0].api().CreateWorkflow(r.t.Context(), &transfer.CreateWorkflowInput{Steps: []types.WorkflowStep{{
		Type: types.WorkflowStepTypeCopy, CopyStepDetails: &types.CopyStepDetails{Name: aws.String("copy"), OverwriteExisting: types.OverwriteExistingTrue,
			DestinationFileLocation: &types.InputFileLocation{EfsFileLocation: &types.EfsFileLocation{
				FileSystemId: aws.String(rigFiles), Path: aws.String(folder)}}},
	}}})
	if err != nil {
		r.t.Fatal(err)
	}
	return aws.ToString(out.WorkflowId)
}

// curl makes the command that uploads a file over FTP, or over FTPS with a certificate; "-" is its standard input.
func (p *proc) curl(local, remote, ca string) *exec.Cmd {
	args := []string{"-sS", "-T", local, "-u", "alice:" + ftpPassword, "ftp://127.0.0.1:" + p.env["FTP_PORT"] + "/" + remote}
	if ca != "" {
		args = append([]string{"--ssl-reqd", "--cacert", ca}, args...)
	}
	return exec.CommandContext(p.t.Context(), "curl", args...)
}

// uploadsOf are what a daemon tells of uploads, by their files' names.
func (p *proc) uploadsOf() map[string]uploadView {
	p.t.Helper()
	var views []uploadView
	shown, stderr, code := p.transferd("uploads", "--json")
	if err := json.Unmarshal([]byte(shown), &views); err != nil || code != 0 {
		p.t.Fatalf("transferd uploads: status %d, %v, %s", code, err, stderr)
	}
	all := map[string]uploadView{}
	for _, v := range views {
		all[filepath.Base(v.File)] = v
	}
	return all
}

// TestClusterFileSystem: two daemons share a directory. Files come through both of them over SFTP, FTP and FTPS; one is killed
// for good while files are open on it. The other calls those partial and finishes every execution, and each file is where
// its workflow puts it, once.
func TestClusterFileSystem(t *testing.T) {
	t.Parallel()
	r, dir, ca := startFileRig(t)
	alive, dying := r.nodes[0], r.nodes[1]
	content := map[string][]byte{}
	for node, p := range map[string]*proc{"one": alive, "two": dying} {
		for way, put := range map[string]func(local, remote string) ([]byte, error){
			"sftp": func(local, remote string) ([]byte, error) {
				return p.sftpCommand(t.Context(), "alice", "put \""+local+"\" "+remote+"\n").CombinedOutput()
			},
			"ftp":  func(local, remote string) ([]byte, error) { return p.curl(local, remote, "").CombinedOutput() },
			"ftps": func(local, remote string) ([]byte, error) { return p.curl(local, remote, ca).CombinedOutput() },
		} {
			local, data := file(t, 200_000)
			remote := node + "-" + way
			if out, err := put(local, remote); err != nil {
				t.Fatalf("%s: %v\n%s", remote, err, out)
			}
			content[remote] = data
		}
	}
	local, renamed := file(t, 100_000)
	dying.sftp("put \"" + local + "\" renamed.filepart\n") // and its client comes back to another node
	alive.sftp("rename renamed.filepart renamed\n")
	content["renamed"] = renamed
	whole := len(content)
	data := noise(3 << 20)
	conn := dying.putPart(t, "open-sftp", data)
	defer conn.Close() // the daemon may close it first
	content["open-sftp"] = data
	for name, ca := range map[string]string{"open-ftp": "", "open-ftps": ca} {
		cmd := dying.curl("-", name, ca)
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			_, err = in.Write(data[:1<<20]) // and no end
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Wait() }() // its server died
		defer in.Close()                  // the same
		content[name] = data[:1<<20]
	}
	alive.await("all are open", func() bool {
		all := alive.uploadsOf()
		for _, name := range []string{"open-sftp", "open-ftp", "open-ftps"} {
			info, err := os.Stat(filepath.Join(dir, "in", name))
			if v, is := all[name]; !is || v.Ended != nil || err != nil || info.Size() == 0 {
				return false
			}
		}
		return len(all) == len(content)
	})
	dying.kill()
	killed := time.Now()
	var runs map[string][]string
	alive.await("every file has had its workflow", func() bool {
		runs = alive.endedRuns(map[string]string{"whole": r.whole, "cut": r.partial})
		return len(runs) == len(content)
	})
	t.Logf("%d files whole and 3 open on the node that was killed: all executions had ended %v after it", whole, time.Since(killed).Round(time.Millisecond))
	verdicts := alive.uploadsOf()
	for name, want := range content {
		outcome, evidence, folder := "complete", "", "whole"
		if strings.HasPrefix(name, "open-") {
			outcome, evidence, folder = "partial", "crash", "cut"
		}
		v := verdicts[name]
		if v.Outcome != outcome || evidence != "" && v.Evidence != evidence || !slices.Equal(runs[name], []string{folder + " COMPLETED"}) {
			t.Errorf("%s is %s (%s), its executions are %v", name, v.Outcome, v.Evidence, runs[name])
		}
		stored, err := os.ReadFile(filepath.Join(dir, "in", name))
		copied, copyErr := os.ReadFile(filepath.Join(dir, folder, name))
		if err := cmp.Or(err, copyErr); err != nil {
			t.Error(err)
		}
		// What the dead node had not written of an open file over FTP is lost with it.
		if !bytes.HasPrefix(want, stored) || len(stored) == 0 || (outcome == "complete" || name == "open-sftp") && len(stored) != len(want) || !bytes.Equal(stored, copied) {
			t.Errorf("%s: sent %s, stored %s, copied %s", name, sum(want), sum(stored), sum(copied))
		}
	}
}

// endedRuns are the executions of workflows that have ended, by the names of their files, each with its workflow's name and
// its status.
func (p *proc) endedRuns(workflows map[string]string) map[string][]string {
	p.t.Helper()
	runs := map[string][]string{}
	for name, id := range workflows {
		for _, e := range p.allExecutions(id) {
			if e.Status == types.ExecutionStatusCompleted || e.Status == types.ExecutionStatusException {
				at := filepath.Base(aws.ToString(e.InitialFileLocation.EfsFileLocation.Path))
				runs[at] = append(runs[at], name+" "+string(e.Status))
			}
		}
	}
	return runs
}

package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// efsServer makes a server with the domain EFS and two users of it, anna and ben, with a home each, and points p at it.
func (p *proc) efsServer() {
	p.t.Helper()
	efsHomes(p.t, p.env["EFS_DIR"])
	p.efsUsers()
}

// efsAccounts are the users of efsServer and their uids.
func efsAccounts() map[string]int { return map[string]int{"anna": 2001, "ben": 2002} }

func efsHomes(t *testing.T, dir string) {
	t.Helper()
	for name, uid := range efsAccounts() {
		home := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(home, 0o750), os.Chown(home, uid, 3000), os.Chmod(home, 0o750)); err != nil {
			t.Fatal(err)
		}
	}
}

// efsUsers is efsServer where the homes stand.
func (p *proc) efsUsers() {
	p.t.Helper()
	out, err := p.api().CreateServer(p.t.Context(), &transfer.CreateServerInput{Domain: types.DomainEfs})
	if err != nil {
		p.t.Fatal(err)
	}
	public, err := os.ReadFile(p.env["SFTP_KEY"] + ".pub")
	if err != nil {
		p.t.Fatal(err)
	}
	for name, uid := range efsAccounts() {
		if _, err := p.api().CreateUser(p.t.Context(), &transfer.CreateUserInput{
			ServerId: out.ServerId, UserName: aws.String(name), Role: aws.String(devRole), SshPublicKeyBody: aws.String(string(public)),
			HomeDirectory: aws.String("/" + p.env["EFS_FILE_SYSTEM_ID"] + "/" + name),
			PosixProfile:  &types.PosixProfile{Uid: aws.Int64(int64(uid)), Gid: aws.Int64(int64(uid)), SecondaryGids: []int64{3000}},
		}); err != nil {
			p.t.Fatal(err)
		}
	}
	p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(p.awaitAddress(aws.ToString(out.ServerId), fleet.TagSFTPAddress))
	p.env["SFTP_USER"] = "anna"
}

// TestFileSystem is the way of uploads to a file system: with OpenSSH, whose users are to the kernel what their
// PosixProfiles say; cut; and with the daemon killed.
func TestFileSystem(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	p := startDaemon(t, startOptions{})
	p.efsServer()
	p.twoAccounts(t, filepath.Join(p.env["EFS_DIR"], "anna"))
}

// twoAccounts is what anna and ben, who have a group in common, can do over SFTP, and what is left of uploads that are cut. dir
// is anna's home where its disk is.
func (p *proc) twoAccounts(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(dir, "outside")), os.Symlink("../../../../../../etc/passwd", filepath.Join(dir, "outside2"))); err != nil {
		t.Fatal(err)
	}
	name, content := file(t, 3_000_000)
	down := filepath.Join(t.TempDir(), "down")
	p.sftp("put \"" + name + "\" file\nchmod 640 file\nchgrp 3000 file\nln -s file link\nget link \"" + down + "\"\n-chown 2002 file\n-get outside \"" + down + ".2\"\n-get outside2 \"" + down + ".2\"\n")
	if got, err := os.ReadFile(down); err != nil || !bytes.Equal(got, content) {
		t.Errorf("through the link came %s, %v; want %s", sum(got), err, sum(content))
	}
	if _, err := os.Stat(down + ".2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file of the machine came out: %v", err)
	}
	fi, err := os.Stat(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != 2001 || st.Gid != 3000 || fi.Mode() != 0o640 {
		t.Errorf("the file is %v of %d:%d", fi.Mode(), st.Uid, st.Gid)
	}
	p.env["SFTP_USER"] = "ben" // of the same group
	p.sftp("get ../anna/file \"" + down + "\"\n-put \"" + name + "\" ../anna/file\n-put \"" + name + "\" ../anna/new\n-rm ../anna/file\n-chmod 666 ../anna/file\n")
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after ben: %s, %v", sum(got), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ben made a file in anna's directory: %v", err)
	}
	p.env["SFTP_USER"] = "anna"
	p.cutUpload("cut", content)
	conn, client := p.dial()
	defer conn.Close()
	f, err := client.Create("killed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	p.kill()
	again := startDaemon(t, startOptions{data: p.data})
	for name, evidence := range map[string]string{"cut": "disconnect", "killed": "crash"} {
		again.await("the verdict on "+name, func() bool { return verdictLogged(again, "anna/"+name, evidence) })
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %s, %v; want all that was acknowledged, %s", name, sum(got), err, sum(content))
		}
	}
}

// cutUpload sends a file without closing it and breaks the connection when all is acknowledged.
func (p *proc) cutUpload(name string, content []byte) {
	p.t.Helper()
	conn, client := p.dial()
	f, err := client.Create(name)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		p.t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		p.t.Fatal(err)
	}
}

func verdictLogged(p *proc, path, evidence string) bool {
	for _, e := range p.logged("PARTIAL_CLOSE") {
		if logged, ok := e["path"].(string); ok && strings.HasSuffix(logged, "/"+path) && e["evidence"] == evidence {
			return true
		}
	}
	return false
}

// TestRetryOfAReplacedFile: steps work on the file that was uploaded and not on the next one at the same path; its times
// and its mode, which clients set after CLOSE, make no other file of it.
func TestRetryOfAReplacedFile(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	p := startDaemon(t, startOptions{})
	p.efsServer()
	f := p.front()
	f.server = p.serverOf(types.DomainEfs)
	if err := syscall.Setxattr(p.env["EFS_DIR"], "user.transferd.test", nil, 0); err != nil {
		t.Skip("no extended attributes here: ", err)
	}
	to := overwrites(copyStep(onEFS(p.env["EFS_FILE_SYSTEM_ID"], "/anna/copy")))
	first := p.runs(f, "f", []byte("one"), to)
	p.sftp("chmod 600 f\n")
	if err := os.Chtimes(filepath.Join(p.env["EFS_DIR"], "anna", "f"), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	retried := func(e *types.DescribedExecution) executionDetail {
		shown, stderr, code := p.transferd("retry", *e.ExecutionId)
		if code != 0 {
			t.Fatalf("retry: status %d, %s", code, stderr)
		}
		id := strings.TrimSpace(shown)
		p.await("the end of the retry", func() bool { return p.execution(id).Ended != nil })
		return p.execution(id)
	}
	if e := retried(first); e.Status != "COMPLETED" {
		t.Errorf("nobody has changed the file: %+v", e)
	}
	second := p.runs(f, "f", []byte("two"), to)
	if e := retried(first); e.Status != "EXCEPTION" || e.Steps[0].Error != "NOT_FOUND" || !strings.Contains(e.Steps[0].Message, "the file has changed") {
		t.Errorf("the file is another one by now: %+v", e)
	}
	if e := retried(second); e.Status != "COMPLETED" {
		t.Errorf("the second file is as it was: %+v", e)
	}
	if got := p.content("EFS:anna/copy"); string(got) != "two" {
		t.Errorf("the copy is %q", got)
	}
	_, said, err := p.tryAWS("list-executions", "--workflow-id", p.execution(*second.ExecutionId).WorkflowId, "--debug")
	if _, body, found := strings.Cut(said, "Response body:"); err != nil || !found || !strings.Contains(body, "EfsFileLocation") || strings.Contains(body, "Etag") {
		t.Errorf("the API shows %v\n%s", err, body)
	}
}

// TestStores: file systems by their ids, as the daemon and as users, beside buckets.
func TestStores(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fileSystem, err := efs.New(efs.Config{Dir: dir, OwnIdentityOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fileSystem.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &stores{buckets: noBuckets{}, files: map[string]*efs.Store{"fs-01234567": fileSystem}}
	if _, err := s.Backend(t.Context(), "EFS", "fs-01234567"); err != nil {
		t.Error(err)
	}
	for domain, name := range map[string]string{"EFS": "fs-00000000", "S3": "fs-01234567"} {
		if _, err := s.Backend(t.Context(), domain, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s %s: %v", domain, name, err)
		}
	}
	own := storage.Posix{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	other := storage.Posix{UID: own.UID + 1, GID: own.GID}
	for who, want := range map[*storage.Posix]error{&own: nil, &other: fs.ErrPermission} {
		as, err := s.As(t.Context(), storage.Identity{Posix: who})
		if err == nil {
			_, err = as.Backend(t.Context(), "EFS", "fs-01234567")
		}
		if !errors.Is(err, want) {
			t.Errorf("as %+v: %v, want %v", *who, err, want)
		}
	}
}

type noBuckets struct{}

func (noBuckets) Backend(context.Context, string, string) (storage.Backend, error) {
	return nil, fs.ErrNotExist
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"github.com/pkg/sftp"

	"github.com/transferd/transferd/server/identity/usersfile"
	"github.com/transferd/transferd/storage/efs"
)

// resumingClient goes on with an upload that was cut.
type resumingClient struct {
	temp string // what it puts behind the name until the file is whole
	do   func(t *testing.T, p *proc, local, remote string)
}

// resumingClients are those of the real world that run here, and the packets of those that do not.
func resumingClients() map[string]resumingClient {
	return map[string]resumingClient{
		"openssh": {"", func(t *testing.T, p *proc, local, remote string) {
			batch(t, p, fmt.Sprintf("reput %q %s", local, remote))
		}},
		"psftp": {"", func(t *testing.T, p *proc, local, remote string) {
			psftp(t, p, fmt.Sprintf("reput %q %s\n", local, remote))
		}},
		"lftp": {"", func(t *testing.T, p *proc, local, remote string) {
			lftp(t, fmt.Sprintf("set sftp:connect-program '%s'; open -u %s, -p %s sftp://%s; put -c %q -o %s", sshProgram(p), p.env["SFTP_USER"],
				p.env["SFTP_PORT"], p.env["SFTP_HOST"], local, remote))
		}},
		"lftp over FTP": {"", func(t *testing.T, p *proc, local, remote string) {
			lftp(t, fmt.Sprintf("set ftp:ssl-allow no; open -u '%s,%s' ftp://%s; put -c %q -o %s", p.env["FTP_USER"], p.env["FTP_PASSWORD"],
				p.env["FTP_ADDRESS"], local, remote))
		}},
		"lftp over FTPS": {"", func(t *testing.T, p *proc, local, remote string) {
			lftp(t, fmt.Sprintf("set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set ssl:verify-certificate no; open -u '%s,%s' ftp://%s; put -c %q -o %s",
				p.env["FTP_USER"], p.env["FTP_PASSWORD"], p.env["FTP_ADDRESS"], local, remote))
		}},
		"curl": {"", func(t *testing.T, p *proc, local, remote string) {
			succeed(t, exec.CommandContext(t.Context(), "curl", "-sS", "-C", "-", "-T", local, "-u", p.env["FTP_USER"]+":"+p.env["FTP_PASSWORD"],
				"ftp://"+p.env["FTP_ADDRESS"]+"/"+remote))
		}},
		"like FileZilla": {"", func(t *testing.T, p *proc, local, remote string) { // 16 KiB, many on their way, the time after CLOSE
			goOn(t, p, local, remote, "", 16<<10, 16)
		}},
		"like WinSCP": {".filepart", func(t *testing.T, p *proc, local, remote string) {
			goOn(t, p, local, remote, ".filepart", 32<<10, 4)
		}},
	}
}

func lftp(t *testing.T, script string) {
	t.Helper()
	succeed(t, exec.CommandContext(t.Context(), "lftp", "-c", "set cmd:fail-exit yes; set net:max-retries 1; "+script+"; bye"))
}

// goOn sends the rest of a file from the length that the server shows, in blocks that may overtake each other: OPEN with
// WRITE alone, WRITE, CLOSE, SETSTAT of the times and, from a temporary name, RENAME.
func goOn(t *testing.T, p *proc, local, remote, temp string, block, window int) {
	t.Helper()
	conn, client := p.dial()
	defer conn.Close()
	content := mustRead(t, local)
	info, err := client.Stat(remote + temp)
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.OpenFile(remote+temp, os.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sendBlocks(f, content, int(info.Size()), block, window), f.Close(), client.Chtimes(remote+temp, time.Now(), time.Unix(1.6e9, 0))); err != nil {
		t.Fatal(err)
	}
	if temp != "" {
		if err := client.Rename(remote+temp, remote); err != nil {
			t.Fatal(err)
		}
	}
}

// sendBlocks writes blocks that overtake each other, none by more than a window: a client sends no further ahead of what
// was answered. The first comes first: on S3 it says from where on the file is written.
func sendBlocks(f *sftp.File, content []byte, from, block, window int) error {
	errs := make([]error, window)
	if _, err := f.WriteAt(content[from:min(from+block, len(content))], int64(from)); err != nil {
		return err
	}
	for from += block; from < len(content); from += window * block {
		var all sync.WaitGroup
		for i := range window {
			off := from + i*block
			if off >= len(content) {
				break
			}
			all.Go(func() {
				_, err := f.WriteAt(content[off:min(off+block, len(content))], int64(off))
				errs[i] = errors.Join(errs[i], err)
			})
		}
		all.Wait()
	}
	return errors.Join(errs...)
}

// TestResumedByClients: an upload that was cut and that a client goes on with is the file that the client has, with one
// OnPartialUpload for the cut and one OnUpload, on both domains.
func TestResumedByClients(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	users := diskUser(t, filepath.Join(t.TempDir(), "users.yaml"))
	p := startDaemon(t, startOptions{args: []string{"-users", users}})
	whole, partial := p.attachWorkflows()
	s3 := p.view(t, "bucket", net.JoinHostPort("127.0.0.1", p.env["FTP_PORT"]), p.env["FTP_SERVER_ID"], p.env["SERVER_ID"])
	p.efsServer()
	disk := p.serverOf(types.DomainEfs)
	ftp, address := p.ftpServerOf(types.DomainEfs, &types.ProtocolDetails{}, "127.0.0.1:0", types.ProtocolFtp, types.ProtocolFtps)
	views := map[string]*proc{"S3": s3, "EFS": p.view(t, "disk", address, disk, ftp)}
	for domain, v := range views {
		for name, c := range resumingClients() {
			t.Run(domain+" "+name, func(t *testing.T) {
				t.Parallel()
				v.view(t, v.env["FTP_USER"], v.env["FTP_ADDRESS"]).resumedBy(domain, strings.ReplaceAll(name, " ", "-")+".bin", c, whole, partial)
			})
		}
	}
}

// diskUser writes a users file: bucket has the dev bucket, and disk is anna on the dev file system.
func diskUser(t *testing.T, name string) string {
	t.Helper()
	if err := os.WriteFile(name, fmt.Appendf(nil, `role: %s
users:
  - {name: bucket, password_hash: "%[2]s", home_directory_type: LOGICAL, home_directory_mappings: [{entry: /, target: /%[3]s}]}
  - {name: disk, password_hash: "%[2]s", home_directory_type: LOGICAL, home_directory_mappings: [{entry: /, target: /%[4]s/anna}],
     posix_profile: {uid: 2001, gid: 2001, secondary_gids: [3000]}}
`, devRole, usersfile.HashPassword(ftpPassword), devBucket, devFileSystem), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// view is the same daemon for another test, and with the workflows of its first server at others.
func (p *proc) view(t *testing.T, user, ftp string, servers ...string) *proc {
	t.Helper()
	v := &proc{t: t, data: p.data, cmd: p.cmd, env: maps.Clone(p.env), ended: p.ended}
	v.env["FTP_USER"], v.env["FTP_PASSWORD"], v.env["FTP_ADDRESS"] = user, ftpPassword, ftp
	for _, id := range servers {
		s, err := p.api().DescribeServer(t.Context(), &transfer.DescribeServerInput{ServerId: aws.String(p.env["SERVER_ID"])})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.api().UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: &id, WorkflowDetails: s.Server.WorkflowDetails}); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (p *proc) resumedBy(domain, name string, c resumingClient, whole, partial string) {
	p.t.Helper()
	local, content := file(p.t, 9<<20+11)
	p.cutUpload(name+c.temp, content[:len(content)/2+7])
	p.await("the execution of the cut upload", func() bool { return p.endedAt(partial, name+c.temp) == 1 })
	c.do(p.t, p, local, name)
	p.await("the execution of the whole upload", func() bool { return p.endedAt(whole, name) == 1 })
	at := map[string]string{"S3": "S3:", "EFS": "EFS:anna/"}[domain] + name
	if got := p.content(at); !bytes.Equal(got, content) {
		p.t.Errorf("%s is %s, want %s", at, sum(got), sum(content))
	}
	if got := p.content("S3:processed/" + name); domain == "S3" && !bytes.Equal(got, content) {
		p.t.Errorf("the copy is %s, want %s", sum(got), sum(content))
	}
	for flow, want := range map[string]int{whole: 1, partial: 1} {
		if n := p.endedAt(flow, name) + p.endedAt(flow, name+".filepart"); n != want {
			p.t.Errorf("%d executions of %s, want %d", n, flow, want)
		}
	}
}

// endedAt counts the ended executions of a workflow whose file has this name in its folder.
func (p *proc) endedAt(flow, name string) (n int) {
	p.t.Helper()
	pages := transfer.NewListExecutionsPaginator(p.api(), &transfer.ListExecutionsInput{WorkflowId: &flow})
	for pages.HasMorePages() {
		page, err := pages.NextPage(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		for _, e := range page.Executions {
			at := ""
			switch l := e.InitialFileLocation; {
			case p.env["SFTP_USER"] == "anna" && l.EfsFileLocation != nil:
				at = aws.ToString(l.EfsFileLocation.Path)
			case p.env["SFTP_USER"] != "anna" && l.S3FileLocation != nil:
				at = "/" + aws.ToString(l.S3FileLocation.Key)
			}
			if strings.HasSuffix(at, "/"+name) && (e.Status == types.ExecutionStatusCompleted || e.Status == types.ExecutionStatusException) {
				n++
			}
		}
	}
	return n
}

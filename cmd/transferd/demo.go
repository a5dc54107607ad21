package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// What the demo sends and how long it waits for each execution.
const (
	demoSize     = 12 << 20
	demoCut      = 7 << 20
	demoPatience = 30 * time.Second
)

// demoUpload is one file of the demo: what is sent, and what must come of it.
type demoUpload struct {
	name     string
	sent     []byte // what the client sends of content before it closes or is cut
	content  []byte
	cut      bool
	workflow string // id of the workflow that must run
	folder   string // where its COPY step must have put the file
	tags     map[string]string

	problems []string
}

// demo shows the whole way of an upload: through the real API it attaches a workflow for whole files and one for partial
// ones, through a real SFTP connection it sends one file whole and cuts a second one, and it prints what came of them.
// It reports whether everything was as promised.
func (s *devServer) demo(ctx context.Context, w io.Writer) (bool, error) {
	whole, partial, err := s.demoWorkflows(ctx)
	if err != nil {
		return false, err
	}
	stamp := time.Now().UTC().Format("20060102-150405.000")
	content := make([]byte, demoSize)
	rand.Read(content)
	uploads := []*demoUpload{
		{
			name: "whole-" + stamp + ".bin", content: content, sent: content,
			workflow: whole, folder: "processed/", tags: map[string]string{"status": "processed", "by": "transferd"},
		},
		{
			name: "cut-" + stamp + ".bin", content: content, sent: content[:demoCut], cut: true,
			workflow: partial, folder: "quarantine/",
		},
	}
	fmt.Fprintf(w, "The demo: two files of %s over SFTP to %s, the second one cut in the middle.\n", size(demoSize), s.sftp)
	asPromised := true
	for i, u := range uploads {
		if err := s.send(u); err != nil {
			return false, fmt.Errorf("send %s: %w", u.name, err)
		}
		fmt.Fprintf(w, "\n%d. %s\n", i+1, u.name)
		if err := s.account(ctx, w, u); err != nil {
			return false, err
		}
		for _, p := range u.problems {
			asPromised = false
			fmt.Fprintf(w, "   NOT AS PROMISED: %s\n", p)
		}
	}
	if asPromised {
		fmt.Fprintf(w, "\nEverything is as promised.\n\n")
	}
	return asPromised, nil
}

// demoWorkflows makes the two workflows, or finds those of an earlier demo, and attaches them.
func (s *devServer) demoWorkflows(ctx context.Context) (whole, partial string, err error) {
	copyTo := func(folder string) types.WorkflowStep {
		return types.WorkflowStep{Type: types.WorkflowStepTypeCopy, CopyStepDetails: &types.CopyStepDetails{
			Name: aws.String("copy"), OverwriteExisting: types.OverwriteExistingTrue,
			DestinationFileLocation: &types.InputFileLocation{S3FileLocation: &types.S3InputFileLocation{
				Bucket: aws.String(devBucket), Key: aws.String(folder)}},
		}}
	}
	tag := types.WorkflowStep{Type: types.WorkflowStepTypeTag, TagStepDetails: &types.TagStepDetails{
		Name: aws.String("tag"),
		Tags: []types.S3Tag{{Key: aws.String("status"), Value: aws.String("processed")}, {Key: aws.String("by"), Value: aws.String("transferd")}},
	}}
	if whole, err = s.ensureWorkflow(ctx, "demo for whole uploads", copyTo("processed/"), tag); err != nil {
		return "", "", err
	}
	if partial, err = s.ensureWorkflow(ctx, "demo for partial uploads", copyTo("quarantine/")); err != nil {
		return "", "", err
	}
	attach := func(id string) []types.WorkflowDetail {
		return []types.WorkflowDetail{{WorkflowId: aws.String(id), ExecutionRole: aws.String(devRole)}}
	}
	_, err = s.client.UpdateServer(ctx, &transfer.UpdateServerInput{
		ServerId:        aws.String(string(s.state.ServerID)),
		WorkflowDetails: &types.WorkflowDetails{OnUpload: attach(whole), OnPartialUpload: attach(partial)},
	})
	return whole, partial, err
}

func (s *devServer) ensureWorkflow(ctx context.Context, description string, steps ...types.WorkflowStep) (string, error) {
	pages := transfer.NewListWorkflowsPaginator(s.client, &transfer.ListWorkflowsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, w := range page.Workflows {
			if aws.ToString(w.Description) == description {
				return aws.ToString(w.WorkflowId), nil
			}
		}
	}
	out, err := s.client.CreateWorkflow(ctx, &transfer.CreateWorkflowInput{Description: aws.String(description), Steps: steps})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.WorkflowId), nil
}

// send puts a file as a client would. A cut one ends as the network would end it: the TCP connection goes away while
// the file is open.
func (s *devServer) send(u *demoUpload) error {
	conn, err := net.DialTimeout("tcp", s.sftp, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close() // a second close of a closed connection; nothing to learn from it
	client, err := s.sftpClient(conn)
	if err != nil {
		return err
	}
	f, err := client.Create("/" + u.name)
	if err != nil {
		return err
	}
	if _, err := f.ReadFrom(bytes.NewReader(u.sent)); err != nil {
		return err
	}
	if u.cut {
		return conn.Close()
	}
	return errors.Join(f.Close(), client.Close())
}

func (s *devServer) sftpClient(conn net.Conn) (*sftp.Client, error) {
	pem, err := os.ReadFile(s.keyPath)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, s.sftp, &ssh.ClientConfig{
		User: devUser, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: s.daemon.hostKeyCallback(s.state.ServerID),
		Timeout:         10 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return sftp.NewClient(ssh.NewClient(sc, chans, reqs))
}

// account waits for the upload's execution and prints, and checks, what came of it.
func (s *devServer) account(ctx context.Context, w io.Writer, u *demoUpload) error {
	how := "then closed by the client"
	if u.cut {
		how = "then the connection was cut"
	}
	fmt.Fprintf(w, "   sent        %s of %s, %s\n", size(len(u.sent)), size(len(u.content)), how)
	execution, err := s.awaitExecution(ctx, u)
	if err != nil {
		return err
	}
	if err := s.verdict(ctx, w, u); err != nil {
		return err
	}
	if execution == nil {
		u.problems = append(u.problems, "no execution of "+u.workflow+" within "+demoPatience.String())
		return nil
	}
	u.printExecution(w, execution)
	return s.objects(ctx, w, u)
}

// awaitExecution polls the API, as a script would, until the file's execution has ended. nil: there was none in time.
func (s *devServer) awaitExecution(ctx context.Context, u *demoUpload) (*types.DescribedExecution, error) {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := s.executionsOf(ctx, u)
		if err != nil {
			return nil, err
		}
		if len(found) > 1 {
			u.problems = append(u.problems, fmt.Sprintf("%d executions instead of one", len(found)))
		}
		if len(found) > 0 {
			out, err := s.client.DescribeExecution(ctx, &transfer.DescribeExecutionInput{WorkflowId: aws.String(u.workflow), ExecutionId: found[0]})
			if err != nil {
				return nil, err
			}
			if st := out.Execution.Status; st == types.ExecutionStatusCompleted || st == types.ExecutionStatusException {
				return out.Execution, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, nil
			}
			return nil, ctx.Err()
		}
	}
}

func (s *devServer) executionsOf(ctx context.Context, u *demoUpload) ([]*string, error) {
	var found []*string
	pages := transfer.NewListExecutionsPaginator(s.client, &transfer.ListExecutionsInput{WorkflowId: aws.String(u.workflow)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Executions {
			if l := e.InitialFileLocation; l != nil && l.S3FileLocation != nil && aws.ToString(l.S3FileLocation.Key) == u.name {
				found = append(found, e.ExecutionId)
			}
		}
	}
	return found, nil
}

// verdict prints, and checks, what the journal says of an upload.
func (s *devServer) verdict(ctx context.Context, w io.Writer, u *demoUpload) error {
	want, evidence := session.Complete, session.Closed
	if u.cut {
		want, evidence = session.Partial, session.Disconnect
	}
	v, err := s.daemon.verdictOf(ctx, storage.Location{Domain: "S3", Store: devBucket, Name: u.name})
	if err != nil {
		return err
	}
	if v == nil {
		u.problems = append(u.problems, "the upload has no verdict")
		return nil
	}
	fmt.Fprintf(w, "   verdict     %s, evidence %s: %s received, %s kept\n", v.Outcome, v.Evidence, size(int(v.Received)), size(int(v.Object.Size)))
	if v.Outcome != want || v.Evidence != evidence {
		u.problems = append(u.problems, fmt.Sprintf("the verdict is %s, evidence %s, not %s, evidence %s", v.Outcome, v.Evidence, want, evidence))
	}
	return nil
}

func (u *demoUpload) printExecution(w io.Writer, e *types.DescribedExecution) {
	trigger := "OnUpload"
	if u.cut {
		trigger = "OnPartialUpload"
	}
	fmt.Fprintf(w, "   %-11s workflow %s, execution %s: %s\n", trigger, u.workflow, aws.ToString(e.ExecutionId), e.Status)
	if e.Status != types.ExecutionStatusCompleted {
		u.problems = append(u.problems, "the execution ended as "+string(e.Status))
	}
	if e.Results == nil {
		u.problems = append(u.problems, "the execution has no results")
		return
	}
	for i, r := range e.Results.Steps {
		result := "done"
		if r.Error != nil {
			result = string(r.Error.Type) + ": " + aws.ToString(r.Error.Message)
		}
		fmt.Fprintf(w, "     step %d    %-5s %s\n", i+1, r.StepType, result)
	}
}

// objects compares the file and its copy with what was sent.
func (s *devServer) objects(ctx context.Context, w io.Writer, u *demoUpload) error {
	for _, name := range []string{u.name, u.folder + u.name} {
		got, tags, err := s.daemon.object(ctx, devBucket, name)
		if err != nil {
			u.problems = append(u.problems, fmt.Sprintf("object %s: %v", name, err))
			continue
		}
		what := "the file, byte for byte"
		switch {
		case len(got) == len(u.content) && bytes.Equal(got, u.content):
		case bytes.HasPrefix(u.content, got):
			what = "the file's first bytes, exactly"
		default:
			what = "not what was sent"
		}
		if !bytes.HasPrefix(u.content, got) || !u.cut && len(got) != len(u.content) || len(got) == 0 {
			u.problems = append(u.problems, "object "+name+" is "+what)
		}
		fmt.Fprintf(w, "   object      s3://%s/%s  %s, %s%s\n", devBucket, name, size(len(got)), what, showTags(tags))
		if name != u.name && !maps.Equal(tags, u.tags) {
			u.problems = append(u.problems, fmt.Sprintf("object %s has tags %v, not %v", name, tags, u.tags))
		}
	}
	return nil
}

func showTags(tags map[string]string) string {
	if len(tags) == 0 {
		return ""
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return ", tags " + strings.Join(parts, " ")
}

// size prints a number of bytes for people.
func size(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

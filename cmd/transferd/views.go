package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/fleet"
)

// view is a picture of a running daemon: what --json prints, and a table of it.
type view struct {
	data     any
	headline string
	rows     [][]string
}

// viewFlags are what all views share.
type viewFlags struct{ json, watch bool }

// watchEvery is how often --watch looks again.
const watchEvery = time.Second

func (f *viewFlags) flags(p process, name, about string, args []string, more func(fs *flag.FlagSet)) error {
	fs := newFlags(p, name, about)
	fs.BoolVar(&f.json, "json", false, "print JSON")
	fs.BoolVar(&f.watch, "watch", false, "print again every second until Ctrl-C")
	more(fs)
	return parse(fs, args)
}

// show prints a view once, or again and again.
func (f *viewFlags) show(ctx context.Context, w io.Writer, look func(context.Context) (view, error)) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		v, err := look(ctx)
		if err == nil {
			err = f.print(w, v)
		}
		if err != nil || !f.watch {
			return ignoreEnd(ctx, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *viewFlags) print(w io.Writer, v view) error {
	if f.json {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v.data)
	}
	if f.watch {
		fmt.Fprintf(w, "\n%s\n", time.Now().Format(time.TimeOnly))
	}
	return table(w, v.headline, v.rows)
}

const serversAbout = `transferd servers: the servers of a running daemon, asked over its control API, and the addresses of each on every node of
the cluster, asked at the metrics address (-url). If nobody answers there, the address is what the server's tags say: where
the node listens that opened its listener last.

SEEN is how long ago a node said that it lives; one that is missing is about to be declared dead.

` + apiEnvironment + `

Examples:
  transferd servers
  transferd servers --json | jq -r '.[].ServerId'
  transferd servers --json | jq -r '.[].Nodes[] | select(.State == "alive") | .Address'`

func runServers(ctx context.Context, p process, args []string) error {
	var f viewFlags
	var at apiFlags
	var url *string
	if err := f.flags(p, "servers", serversAbout, args, func(fs *flag.FlagSet) { at.flags(fs); url = metricsFlag(fs) }); err != nil {
		return err
	}
	client, err := at.client()
	if err != nil {
		return err
	}
	silent := false
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) {
		var nodes []nodeView
		if err := getJSON(ctx, strings.TrimSuffix(*url, "/")+"/debug/nodes", &nodes); err != nil && !silent {
			silent = true
			fmt.Fprintf(p.stderr, "where each node listens is not known: %v\n", err)
		}
		return viewServers(ctx, client, nodes)
	})
}

// serverView is a row of `transferd servers`.
type serverView struct {
	ServerId   string
	Name       string `json:",omitempty"` // the tag Name
	State      string
	StartError string `json:",omitempty"`
	Protocols  []types.Protocol
	Address    string // where it listens, or last listened
	UserCount  int32
	Nodes      []servedView `json:",omitempty"` // none if the metrics address does not answer
}

// servedView is a server on one node.
type servedView struct {
	Node    string
	State   string
	Unseen  float64 // seconds
	Address string
}

// on lists where a server listens on each node.
func (s *serverView) on(nodes []nodeView) {
	for _, n := range nodes {
		var addresses []string
		for _, l := range n.Listeners {
			if string(l.Server) == s.ServerId {
				addresses = append(addresses, l.Address)
			}
		}
		if len(addresses) > 0 {
			s.Nodes = append(s.Nodes, servedView{n.Node, n.State, n.Unseen, strings.Join(addresses, " ")})
		}
	}
}

// rows are a line for each node that serves it, or one.
func (s *serverView) rows() [][]string {
	row := func(address, node, seen string) []string {
		return []string{s.ServerId, s.Name, strings.TrimSpace(s.State + " " + s.StartError), fmt.Sprint(s.Protocols), address,
			strconv.Itoa(int(s.UserCount)), node, seen}
	}
	if len(s.Nodes) == 0 {
		return [][]string{row(s.Address, "-", "-")}
	}
	var rows [][]string
	for _, n := range s.Nodes {
		seen := (time.Duration(n.Unseen*1000) * time.Millisecond).String() + " ago"
		if n.State != string(db.NodeAlive) {
			seen += ", " + n.State
		}
		rows = append(rows, row(n.Address, n.Node, seen))
	}
	return rows
}

func viewServers(ctx context.Context, client *transfer.Client, nodes []nodeView) (view, error) {
	views := []serverView{}
	v := view{headline: "SERVER\tNAME\tSTATE\tPROTOCOLS\tADDRESS\tUSERS\tNODE\tSEEN"}
	pages := transfer.NewListServersPaginator(client, &transfer.ListServersInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return v, err
		}
		for _, listed := range page.Servers {
			out, err := client.DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: listed.ServerId})
			var gone *types.ResourceNotFoundException
			if errors.As(err, &gone) {
				continue // deleted since it was listed
			}
			if err != nil {
				return v, err
			}
			s := serverOf(out.Server)
			s.on(nodes)
			views = append(views, s)
			v.rows = append(v.rows, s.rows()...)
		}
	}
	v.data = views
	return v, nil
}

func serverOf(s *types.DescribedServer) serverView {
	tags := map[string]string{}
	for _, t := range s.Tags {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return serverView{
		ServerId: aws.ToString(s.ServerId), Name: tags["Name"], State: string(s.State), StartError: tags[fleet.TagStartError],
		Protocols: s.Protocols, Address: strings.TrimSpace(tags[fleet.TagSFTPAddress] + " " + tags[fleet.TagFTPAddress]), UserCount: aws.ToInt32(s.UserCount),
	}
}

const executionsAbout = `transferd executions: the executions of workflows, asked over the control API of a running daemon.

` + apiEnvironment + `

Examples:
  transferd executions
  transferd executions -workflow w-0123456789abcdef0 --json`

func runExecutions(ctx context.Context, p process, args []string) error {
	var f viewFlags
	var at apiFlags
	var workflow string
	err := f.flags(p, "executions", executionsAbout, args, func(fs *flag.FlagSet) {
		at.flags(fs)
		fs.StringVar(&workflow, "workflow", "", "only those of the workflow with this `id`")
	})
	if err != nil {
		return err
	}
	client, err := at.client()
	if err != nil {
		return err
	}
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) { return viewExecutions(ctx, client, workflow) })
}

// executionView is a row of `transferd executions`.
type executionView struct {
	WorkflowId  string
	ExecutionId string
	Status      string
	ServerId    string
	UserName    string
	SessionId   string
	File        string // /bucket/key
}

func viewExecutions(ctx context.Context, client *transfer.Client, only string) (view, error) {
	v := view{headline: "WORKFLOW\tEXECUTION\tSTATUS\tUSER\tFILE"}
	ids, err := workflowIDs(ctx, client, only)
	if err != nil {
		return v, err
	}
	views := []executionView{}
	for _, id := range ids {
		pages := transfer.NewListExecutionsPaginator(client, &transfer.ListExecutionsInput{WorkflowId: aws.String(id)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return v, err
			}
			for _, e := range page.Executions {
				x := executionOf(id, e)
				views = append(views, x)
				v.rows = append(v.rows, []string{x.WorkflowId, x.ExecutionId, x.Status, x.UserName, x.File})
			}
		}
	}
	v.data = views
	return v, nil
}

func workflowIDs(ctx context.Context, client *transfer.Client, only string) ([]string, error) {
	if only != "" {
		return []string{only}, nil
	}
	var ids []string
	pages := transfer.NewListWorkflowsPaginator(client, &transfer.ListWorkflowsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, w := range page.Workflows {
			ids = append(ids, aws.ToString(w.WorkflowId))
		}
	}
	return ids, nil
}

func executionOf(workflow string, e types.ListedExecution) executionView {
	x := executionView{WorkflowId: workflow, ExecutionId: aws.ToString(e.ExecutionId), Status: string(e.Status)}
	if m := e.ServiceMetadata; m != nil && m.UserDetails != nil {
		x.ServerId, x.UserName, x.SessionId = aws.ToString(m.UserDetails.ServerId), aws.ToString(m.UserDetails.UserName), aws.ToString(m.UserDetails.SessionId)
	}
	switch l := e.InitialFileLocation; {
	case l == nil:
	case l.S3FileLocation != nil:
		x.File = "/" + aws.ToString(l.S3FileLocation.Bucket) + "/" + aws.ToString(l.S3FileLocation.Key)
	case l.EfsFileLocation != nil:
		x.File = "/" + aws.ToString(l.EfsFileLocation.FileSystemId) + aws.ToString(l.EfsFileLocation.Path)
	}
	return x
}

const localAbout = `

Asks the metrics address, which tells this to callers on the same machine alone. METRICS_URL of dev.env is its default.`

const sessionsAbout = `transferd sessions: who is logged in to a running daemon.` + localAbout + `

Example:
  transferd sessions --watch`

func runSessions(ctx context.Context, p process, args []string) error {
	return runLocal(ctx, p, "sessions", sessionsAbout, args, func(sessions []sessionView) view {
		v := view{data: sessions, headline: "SESSION\tSERVER\tUSER\tPROTOCOL\tSOURCE\tSINCE\tOPEN FILES\tCLIENT"}
		for _, s := range sessions {
			v.rows = append(v.rows, []string{
				s.SessionId, string(s.ServerId), s.UserName, s.Protocol, s.SourceIp, s.Began.Format(time.RFC3339), strconv.Itoa(s.OpenFiles), s.Client,
			})
		}
		return v
	})
}

const uploadsAbout = `transferd uploads: the uploads under way in a running daemon, and the latest that ended, with their verdicts.` + localAbout + `

Examples:
  transferd uploads
  transferd uploads --json | jq '.[] | select(.Outcome == "partial")'`

func runUploads(ctx context.Context, p process, args []string) error {
	return runLocal(ctx, p, "uploads", uploadsAbout, args, func(uploads []uploadView) view {
		v := view{data: uploads, headline: "UPLOAD\tSERVER\tUSER\tBEGAN\tVERDICT\tEVIDENCE\tRECEIVED\tFILE"}
		for _, u := range uploads {
			v.rows = append(v.rows, []string{
				u.UploadId, string(u.ServerId), u.UserName, u.Began.Format(time.RFC3339), cmp.Or(u.Outcome, "open"), cmp.Or(u.Evidence, "-"),
				strconv.FormatInt(u.Received, 10), u.File,
			})
		}
		return v
	})
}

// runLocal shows what the metrics address tells callers on the same machine.
func runLocal[T any](ctx context.Context, p process, name, about string, args []string, picture func(T) view) error {
	var f viewFlags
	var url *string
	if err := f.flags(p, name, about, args, func(fs *flag.FlagSet) { url = metricsFlag(fs) }); err != nil {
		return err
	}
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) {
		var answer T
		if err := getJSON(ctx, strings.TrimSuffix(*url, "/")+"/debug/"+name, &answer); err != nil {
			return view{}, err
		}
		return picture(answer), nil
	})
}

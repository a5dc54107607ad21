package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// executionDetail is what `transferd execution` shows.
type executionDetail struct {
	ExecutionId string
	WorkflowId  string
	Status      string
	Trigger     string
	Evidence    string // of the upload's verdict
	ServerId    string
	UserName    string
	SessionId   string `json:",omitempty"`
	Role        string `json:",omitempty"`
	File        string // /bucket/key
	Began       time.Time
	Ended       *time.Time `json:",omitempty"`
	RetryOf     string     `json:",omitempty"` // the execution that this one does over again
	Steps       []stepDetail
	Upload      *uploadView `json:",omitempty"` // none once it is forgotten
}

// stepDetail is a step of a workflow and what came of it.
type stepDetail struct {
	Phase   string // nominal or exception
	Step    int    // from 1
	Type    string
	Name    string `json:",omitempty"`
	Status  string // COMPLETED, FAILED, RUNNING, WAITING for a callback, PENDING or SKIPPED
	Attempt int    `json:",omitempty"` // more than 1 is a repeat
	Began   *time.Time
	Ended   *time.Time
	Took    string     `json:",omitempty"`
	Until   *time.Time `json:",omitempty"` // of a callback
	Error   string     `json:",omitempty"`
	Message string     `json:",omitempty"`
	Outputs string     `json:",omitempty"`
}

const executionAbout = `transferd execution ID: one execution with its steps, their attempts, durations and errors, and the verdict on its file.
It also shows executions that have ended.` + localAbout + `

Examples:
  transferd execution 8a7b6c5d-0123-4567-89ab-cdef01234567
  transferd execution 8a7b6c5d-0123-4567-89ab-cdef01234567 --json | jq .Steps`

func runExecution(ctx context.Context, p process, args []string) error {
	var f viewFlags
	fs := newFlags(p, "execution", executionAbout)
	fs.BoolVar(&f.json, "json", false, "print JSON")
	fs.BoolVar(&f.watch, "watch", false, "print again every second until Ctrl-C")
	at := metricsFlag(fs)
	words, err := parseWords(fs, args, "ID")
	if err != nil {
		return err
	}
	where := strings.TrimSuffix(*at, "/") + "/debug/execution?" + url.Values{"id": {words[0]}}.Encode()
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) {
		var e executionDetail
		if err := getJSON(ctx, where, &e); err != nil {
			return view{}, err
		}
		if !f.json {
			if err := table(p.stdout, "EXECUTION\t"+e.ExecutionId, e.rows()); err != nil {
				return view{}, err
			}
			fmt.Fprintln(p.stdout)
		}
		v := view{data: e, headline: "PHASE\tSTEP\tTYPE\tNAME\tSTATUS\tATTEMPT\tTOOK\tERROR"}
		for _, s := range e.Steps {
			v.rows = append(v.rows, []string{
				s.Phase, strconv.Itoa(s.Step), s.Type, cmp.Or(s.Name, "-"), s.Status, cmp.Or(strings.TrimPrefix(strconv.Itoa(s.Attempt), "0"), "-"),
				cmp.Or(s.Took, "-"), cmp.Or(strings.TrimSpace(s.Error+" "+s.Message), "-"),
			})
		}
		return v, nil
	})
}

func (e executionDetail) rows() [][]string {
	rows := [][]string{
		{"WORKFLOW", e.WorkflowId}, {"STATUS", e.Status}, {"TRIGGER", e.Trigger}, {"EVIDENCE", e.Evidence}, {"SERVER", e.ServerId},
		{"USER", e.UserName}, {"FILE", e.File}, {"BEGAN", e.Began.Format(time.RFC3339Nano)},
	}
	if e.Ended != nil {
		rows = append(rows, []string{"ENDED", e.Ended.Format(time.RFC3339Nano)}, []string{"TOOK", took(e.Began, *e.Ended)})
	}
	if e.RetryOf != "" {
		rows = append(rows, []string{"RETRY OF", e.RetryOf})
	}
	if u := e.Upload; u != nil {
		rows = append(rows, []string{"VERDICT", strings.TrimSpace(u.Outcome + " " + u.Evidence)}, []string{"RECEIVED", strconv.FormatInt(u.Received, 10)},
			[]string{"UPLOADED", u.Began.Format(time.RFC3339Nano) + " over " + u.Protocol + " from " + u.SourceIp})
	}
	return rows
}

const retryAbout = `transferd retry ID: do an execution that has ended over again, all its steps on the same file. The new execution names the old
one (transferd execution shows it).` + localAbout + `

Example:
  transferd retry 8a7b6c5d-0123-4567-89ab-cdef01234567`

func runRetry(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "retry", retryAbout)
	at := metricsFlag(fs)
	words, err := parseWords(fs, args, "ID")
	if err != nil {
		return err
	}
	fresh, err := order(ctx, http.MethodPut, strings.TrimSuffix(*at, "/")+"/debug/retry?"+url.Values{"id": {words[0]}}.Encode())
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, fresh)
	return nil
}

func (d *daemon) debugExecution(w http.ResponseWriter, r *http.Request) {
	e, err := d.db.Execution(r.Context(), workflow.ExecutionID(r.URL.Query().Get("id")))
	if err != nil {
		d.refuseDebug(w, "read an execution", err)
		return
	}
	v := detailOf(e)
	upload, err := d.uploadOf(r.Context(), e)
	var gone *server.NotFoundError
	if err != nil && !errors.As(err, &gone) {
		d.refuseDebug(w, "read an execution's upload", err)
		return
	}
	v.Upload = upload
	d.answerJSON(w, v)
}

// uploadOf finds the upload that caused an execution, or the first of those that it does over again.
func (d *daemon) uploadOf(ctx context.Context, e workflow.Execution) (*uploadView, error) {
	for e.RetryOf != "" {
		var err error
		if e, err = d.db.Execution(ctx, e.RetryOf); err != nil {
			return nil, err
		}
	}
	record, err := d.db.Upload(ctx, string(e.ExecutionId))
	if err != nil {
		return nil, err
	}
	v := viewOf(record)
	return &v, nil
}

func (d *daemon) debugRetry(w http.ResponseWriter, r *http.Request) {
	fresh, err := d.db.Retry(r.Context(), workflow.ExecutionID(r.URL.Query().Get("id")))
	if errors.Is(err, workflow.ErrRunning) {
		http.Error(w, "the execution has not ended", http.StatusConflict)
		return
	}
	if err != nil {
		d.refuseDebug(w, "retry an execution", err)
		return
	}
	d.log.Info("an execution is done over again", "execution", r.URL.Query().Get("id"), "retry", fresh)
	fmt.Fprintln(w, fresh)
}

// detailOf shows an execution with all steps of its plan.
func detailOf(e workflow.Execution) executionDetail {
	u := e.ServiceMetadata.UserDetails
	v := executionDetail{
		ExecutionId: string(e.ExecutionId), WorkflowId: string(e.WorkflowId), Status: string(e.Status), Trigger: string(e.Trigger),
		Evidence: e.Evidence, ServerId: u.ServerId, UserName: u.UserName, SessionId: u.SessionId, Role: e.ExecutionRole,
		File: pathOf(e.InitialFileLocation), Began: e.Began, RetryOf: string(e.RetryOf), Ended: when(e.Ended),
	}
	v.Steps = append(stepsOf(e, "nominal", e.Plan.Steps, e.Results.Steps, e.Status == workflow.InProgress),
		stepsOf(e, "exception", e.Plan.OnExceptionSteps, e.Results.OnExceptionSteps, e.Status == workflow.HandlingException)...)
	return v
}

// stepsOf shows the steps of one phase; current says that it is the execution's.
func stepsOf(e workflow.Execution, phase string, plan []workflow.StepSpec, results []workflow.StepResult, current bool) []stepDetail {
	var all []stepDetail
	for i, spec := range plan {
		s := stepDetail{Phase: phase, Step: i + 1, Type: spec.Type, Name: spec.Name(), Status: "PENDING"}
		switch {
		case i < len(results):
			s.addResult(results[i])
		case current && i == len(results):
			s.Status = "RUNNING"
			if e.Wait != nil {
				s.Status, s.Attempt, s.Began, s.Until = "WAITING", e.Wait.Attempt, when(e.Wait.Began), when(e.Wait.Until)
			}
		case !current && (phase == "nominal" || !e.Ended.IsZero()):
			s.Status = "SKIPPED"
		}
		all = append(all, s)
	}
	return all
}

func (s *stepDetail) addResult(r workflow.StepResult) {
	s.Status, s.Attempt, s.Outputs, s.Began, s.Ended = "COMPLETED", r.Attempt, r.Outputs, when(r.Began), when(r.Ended)
	s.Took = took(r.Began, r.Ended)
	if r.Error != nil {
		s.Status, s.Error, s.Message = "FAILED", string(r.Error.Type), r.Error.Message
	}
}

// pathOf is a file's place as the log has it.
func pathOf(l workflow.FileLocation) string {
	switch {
	case l.S3FileLocation != nil:
		return "/" + l.S3FileLocation.Bucket + "/" + l.S3FileLocation.Key
	case l.EfsFileLocation != nil:
		return "/" + l.EfsFileLocation.FileSystemId + l.EfsFileLocation.Path
	}
	return ""
}

// when is nil for no time.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func took(began, ended time.Time) string {
	if began.IsZero() || ended.IsZero() {
		return ""
	}
	return ended.Sub(began).Round(time.Microsecond).String()
}

package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// errBegun and errEnded are a row that stands already, and one that is none any more.
var (
	errBegun = errors.New("upload has begun")
	errEnded = errors.New("upload has ended or never began")
)

// requireSame wants a row to be just this open upload's.
func (d *DB) requireSame(ctx context.Context, id, doc string) error {
	var n int
	err := d.reader().QueryRow(ctx, `SELECT 1 FROM uploads WHERE id = $1 AND doc = $2 AND ended = 0`, id, doc).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		err = &server.ExistsError{ResourceType: "Upload", Resource: id}
	}
	return err
}

// waited says whether a server's uploads must be on the disk before anybody is told of them: if they start workflows, or if
// somebody wants their events. Nothing follows from the others; their rows may be late (docs/decisions/0024).
func (d *DB) waited(ctx context.Context, tx Tx, id server.ID) (bool, error) {
	if d.events != nil || d.batch.late == nil {
		return true, nil
	}
	var n int
	err := tx.QueryRow(ctx, `SELECT 1 FROM attachments WHERE server_id = $1 LIMIT 1`, id).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return true, err
}

// Begin writes an upload's row. It is durable once it returns, late perhaps (waited). A row that stands already with just this
// upload is no error: the connection was lost while it was committed, and the caller tries again.
func (d *DB) Begin(ctx context.Context, u session.Upload) error {
	doc, err := encode(u)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	waited := true
	err = d.batch.runLate(ctx, func(ctx context.Context, tx Tx) (err error) {
		if waited, err = d.waited(ctx, tx, u.Server); err != nil {
			return err
		}
		return tx.Later(ctx, changed(errBegun), `INSERT INTO uploads (id, node, server_id, began, ended, token, doc, verdict, place)
			VALUES ($1, $2, $3, $4, 0, $5, $6, '', $7) ON CONFLICT DO NOTHING`,
			u.ID, u.Node, u.Server, millis(u.Began), u.Token, doc, place(u.Location))
	}, func() bool { return !waited })
	if errors.Is(err, errBegun) {
		err = d.requireSame(ctx, u.ID, doc)
	}
	if err != nil {
		return fmt.Errorf("journal: begin: %w", err)
	}
	return nil
}

// Note keeps what storage needs to find an upload again. It is durable once it returns.
func (d *DB) Note(ctx context.Context, id, token string) error {
	err := d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `UPDATE uploads SET token = $1 WHERE id = $2 AND ended = 0`, token, id)
		if err == nil && n == 0 {
			err = &server.NotFoundError{ResourceType: "Upload", Resource: id} // or ended, which no storage notes
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("journal: note: %w", err)
	}
	return nil
}

// Committed marks an upload that the storage has committed. It is durable once it returns.
func (d *DB) Committed(ctx context.Context, id string, c session.Commit) error {
	doc, err := encode(c)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	err = d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `UPDATE uploads SET committed = $1 WHERE id = $2 AND ended = 0 AND `+d.owned(3), d.mineOf(doc, id)...)
		if err == nil && n == 0 {
			if err = d.requireMine(ctx, tx, id); err == nil {
				err = &server.NotFoundError{ResourceType: "Upload", Resource: id} // it has ended, and nobody marks that
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("journal: committed: %w", err)
	}
	return nil
}

// End writes an upload's verdict and, in the same transaction, queues the execution that the server has attached to it.
// It is durable once it returns, late perhaps (waited); ending an ended upload changes nothing.
func (d *DB) End(ctx context.Context, u session.Upload, v session.Verdict) error {
	return d.end(ctx, u, v, func(context.Context, Tx) error { return nil })
}

// EndSuperseded is End for an upload whose file gave way to a newer one before anybody knew that it was cut. Its execution
// begins and ends, as AWS's do whose file has changed: no step may work on the newer file, which has its own execution.
func (d *DB) EndSuperseded(ctx context.Context, u session.Upload, v session.Verdict) error {
	v.Object.ETag = "superseded" // of no file: also a retry finds that the file has changed
	var ended workflow.Trigger
	err := d.end(ctx, u, v, func(ctx context.Context, tx Tx) error {
		ended = ""
		e, err := readExecution(ctx, tx, workflow.ExecutionID(u.ID))
		var none *server.NotFoundError
		if errors.As(err, &none) || err == nil && !e.Ended.IsZero() {
			return nil // no workflow is attached, or it has no steps
		}
		if err != nil {
			return err
		}
		ended = e.Trigger
		now := d.now()
		return finish(ctx, tx, ending{workflow.Transition{From: workflow.Job{Execution: e.ExecutionId, Phase: workflow.Nominal},
			Previous: e.Previous, Status: workflow.Exception, Result: workflow.StepResult{
				StepType: stepType(e.Plan, workflow.Job{Phase: workflow.Nominal}),
				Error:    &workflow.Error{Type: workflow.NotFound, Message: "ETag constraint not met, the file has changed"},
				Attempt:  1, Began: now, Ended: now,
			}}, "", now, false})
	})
	if err == nil && ended != "" {
		d.ended(ended, workflow.Exception)
	}
	return err
}

// end writes a verdict and what it causes, and then more in the same transaction.
func (d *DB) end(ctx context.Context, u session.Upload, v session.Verdict, more func(context.Context, Tx) error) error {
	if v.Ended.IsZero() {
		v.Ended = d.now()
	}
	doc, err := encode(v)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	c := &cause{d: d, u: u, v: v}
	waited := true
	err = d.batch.runLate(ctx, func(ctx context.Context, tx Tx) error {
		x, err := c.execution(ctx, tx)
		if err != nil {
			return err
		}
		// A row that the disk may have without this verdict would be partial after the machine's death.
		if waited = x != nil || v.Ended.Sub(u.Began) > lateness; !waited {
			if waited, err = d.waited(ctx, tx, u.Server); err != nil {
				return err
			}
		}
		err = tx.Later(ctx, changed(errEnded), `UPDATE uploads SET ended = $1, verdict = $2 WHERE id = $3 AND ended = 0 AND `+d.owned(4),
			d.mineOf(millis(v.Ended), doc, u.ID)...)
		if err == nil {
			err = d.tell(tx, u, v)
		}
		if err == nil && x != nil {
			err = begin(ctx, tx, *x)
		}
		if err != nil {
			return err
		}
		return more(ctx, tx)
	}, func() bool { return !waited })
	if errors.Is(err, errEnded) {
		err = d.requireMine(ctx, d.reader(), u.ID)
	}
	if err != nil {
		return fmt.Errorf("journal: end: %w", err)
	}
	if d.events != nil {
		d.told.send()
	}
	return nil
}

// cause is a verdict about to cause something. Its call may do so more than once, but asks the throttle once.
type cause struct {
	d              *DB
	u              session.Upload
	v              session.Verdict
	asked, granted bool
}

// grant asks the throttle, and tells of its refusal. Whoever ends the upload again, because the transaction fails, may be
// luckier, and then this has been said in vain.
func (c *cause) grant(ctx context.Context, id workflow.ID, t workflow.Trigger) bool {
	if c.asked {
		return c.granted
	}
	c.asked, c.granted = true, c.d.throttle.take(id, c.d.now())
	if !c.granted {
		c.d.log.WarnContext(ctx, "workflow", "type", "ExecutionThrottled", "details", struct{}{}, "workflowId", id,
			"executionId", c.u.ID, slog.Group("transferDetails", "serverId", c.u.Server, "username", c.u.User, "sessionId", c.u.Session),
			"trigger", t)
	}
	return c.granted
}

// execution is what a verdict causes, if the server says so at this moment; else nil. A file of zero bytes starts none
// (AWS, "Create a workflow": files of size 0 do not trigger it).
func (c *cause) execution(ctx context.Context, tx Tx) (*workflow.Execution, error) {
	u, v := c.u, c.v
	trigger := map[session.Outcome]workflow.Trigger{
		session.Complete: workflow.OnUpload, session.Partial: workflow.OnPartialUpload,
	}[v.Outcome]
	if trigger == "" || v.Received <= 0 {
		return nil, nil
	}
	var role, doc string
	err := tx.QueryRow(ctx, `SELECT a.role, w.doc FROM attachments a JOIN workflows w ON w.id = a.workflow_id
		WHERE a.server_id = $1 AND a.event = $2`, u.Server, trigger).Scan(&role, &doc)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var w workflow.Workflow
	if err := json.Unmarshal([]byte(doc), &w); err != nil {
		return nil, err
	}
	if !c.grant(ctx, w.WorkflowId, trigger) {
		return nil, nil
	}
	file := fileLocation(u, v)
	return &workflow.Execution{
		ExecutionId:         workflow.ExecutionID(u.ID),
		InitialFileLocation: file,
		ServiceMetadata: workflow.ServiceMetadata{UserDetails: workflow.UserDetails{
			UserName: u.User, ServerId: string(u.Server), SessionId: u.Session,
		}},
		ExecutionRole: role,
		Posix:         u.Identity.Posix,
		WorkflowId:    w.WorkflowId,
		Plan:          workflow.Plan{Steps: w.Steps, OnExceptionSteps: w.OnExceptionSteps},
		Trigger:       trigger,
		Evidence:      string(v.Evidence),
		Began:         c.d.now(),
		Previous:      file,
	}, nil
}

func fileLocation(u session.Upload, v session.Verdict) workflow.FileLocation {
	at := v.At(u)
	if at.Domain == "EFS" {
		return workflow.FileLocation{EfsFileLocation: &workflow.EfsFileLocation{
			FileSystemId: at.Store, Path: "/" + at.Name,
		}, EfsEtag: v.Object.ETag}
	}
	return workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{
		Bucket: at.Store, Key: at.Name, VersionId: v.Object.VersionID, Etag: v.Object.ETag,
	}}
}

// Unfinished lists the uploads that a node has begun and not ended, oldest first, each with what the storage noted.
func (d *DB) Unfinished(ctx context.Context, node string) ([]session.Upload, error) {
	return unfinished(ctx, d.reader(), node)
}

func unfinished(ctx context.Context, q Querier, node string) ([]session.Upload, error) {
	records, err := uploads(ctx, q, `WHERE node = $1 AND ended = 0 ORDER BY began, id`, node)
	open := make([]session.Upload, len(records))
	for i, r := range records {
		open[i] = r.Upload
	}
	return open, err
}

// UploadRecord is an upload as the journal knows it.
type UploadRecord struct {
	Upload  session.Upload
	Verdict *session.Verdict // nil while it is under way
}

// RecentUploads lists the n latest uploads and all that are under way, oldest first.
func (d *DB) RecentUploads(ctx context.Context, n int) ([]UploadRecord, error) {
	return uploads(ctx, d.reader(), `WHERE ended = 0 OR id IN (SELECT id FROM uploads ORDER BY began DESC, id DESC LIMIT $1)
		ORDER BY began, id`, n)
}

// Upload reads one upload.
func (d *DB) Upload(ctx context.Context, id string) (UploadRecord, error) {
	found, err := uploads(ctx, d.reader(), `WHERE id = $1`, id)
	if err == nil && len(found) == 0 {
		err = &server.NotFoundError{ResourceType: "Upload", Resource: id}
	}
	if err != nil {
		return UploadRecord{}, err
	}
	return found[0], nil
}

// Uploads lists the journal, oldest first. After is the id of the last one seen; no limit in the page means all.
func (d *DB) Uploads(ctx context.Context, p server.Page) ([]UploadRecord, error) {
	if p.After == "" {
		return uploads(ctx, d.reader(), `ORDER BY began, id LIMIT $1`, limit(p.Limit))
	}
	return uploads(ctx, d.reader(), `WHERE (began, id) > (SELECT began, id FROM uploads WHERE id = $1)
		ORDER BY began, id LIMIT $2`, p.After, limit(p.Limit))
}

func uploads(ctx context.Context, q Querier, where string, args ...any) ([]UploadRecord, error) {
	var all []UploadRecord
	err := eachUpload(ctx, q, func(r UploadRecord) error {
		all = append(all, r)
		return nil
	}, where, args...)
	return all, err
}

// eachUpload reads uploads one by one. The first error of each ends it.
func eachUpload(ctx context.Context, q Querier, each func(UploadRecord) error, where string, args ...any) error {
	return q.Query(ctx, func(scan func(...any) error) error {
		var r UploadRecord
		var token, doc, committed, verdict string
		if err := scan(&token, &doc, &committed, &verdict); err != nil {
			return err
		}
		var err error
		if r.Upload, err = decodeUpload(doc); err != nil {
			return err
		}
		r.Upload.Token = token
		if committed != "" {
			r.Upload.Committed = &session.Commit{}
			if err := json.Unmarshal([]byte(committed), r.Upload.Committed); err != nil {
				return err
			}
		}
		if verdict != "" {
			r.Verdict = &session.Verdict{}
			if err := json.Unmarshal([]byte(verdict), r.Verdict); err != nil {
				return err
			}
		}
		return each(r)
	}, `SELECT token, doc, committed, verdict FROM uploads `+where, args...)
}

func decodeUpload(doc string) (u session.Upload, err error) {
	err = json.Unmarshal([]byte(doc), &u)
	return u, err
}

// owned narrows a statement to uploads of this node, which is the argument n; mineOf adds it. Without a cluster all are.
func (d *DB) owned(n int) string {
	if d.member == nil {
		return "1 = 1"
	}
	return fmt.Sprintf("node = $%d", n)
}

func (d *DB) mineOf(args ...any) []any {
	if d.member == nil {
		return args
	}
	return append(args, d.node)
}

// requireMine says why no open upload of this node has an id; nil if it has ended.
func (d *DB) requireMine(ctx context.Context, q Querier, id string) error {
	var node string
	var ended int64
	err := q.QueryRow(ctx, `SELECT node, ended FROM uploads WHERE id = $1`, id).Scan(&node, &ended)
	if errors.Is(err, sql.ErrNoRows) {
		return &server.NotFoundError{ResourceType: "Upload", Resource: id}
	}
	if err == nil && ended == 0 && node != d.node {
		err = session.ErrElsewhere
	}
	return err
}

// Adopt makes an upload this node's that was committed under a temporary name at a place, on another node or by a dead one,
// and waits to be renamed. One that is just being renamed is not to be had.
func (d *DB) Adopt(ctx context.Context, at storage.Location) (u session.Upload, found bool, err error) {
	if d.member == nil {
		return u, false, nil
	}
	err = d.tx(ctx, "adopt", func(ctx context.Context, tx Tx) error {
		found = false // this may run twice
		open, err := uploads(ctx, tx, `WHERE place = $1 AND ended = 0 AND committed <> '' AND node <> $2 ORDER BY began DESC`, place(at), d.node)
		if err != nil {
			return err
		}
		for _, r := range open {
			if c := r.Upload.Committed; r.Upload.Location != at || !c.Waits || c.Renaming != nil {
				continue
			}
			u = r.Upload
			u.Node = d.node
			row := u
			row.Token, row.Committed = "", nil // have columns of their own
			doc, err := encode(row)
			if err != nil {
				return err
			}
			mark, err := encode(u.Committed)
			if err != nil {
				return err
			}
			n, err := tx.Exec(ctx, `UPDATE uploads SET node = $1, doc = $2 WHERE id = $3 AND ended = 0 AND committed = $4`, d.node, doc, u.ID, mark)
			found = n == 1
			return err
		}
		return nil
	})
	if err != nil {
		return u, false, fmt.Errorf("journal: adopt: %w", err)
	}
	return u, found, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3"
	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// openStores makes the S3 side: one memory budget over all uploads, the daemon's own store and those of roles.
func (d *daemon) openStores() error {
	budget, err := s3.NewBudget(d.memory.buffers, d.registry)
	if err != nil {
		return err
	}
	own := d.cfg.S3.config()
	own.RetryBudget, own.AttemptTimeout = d.cfg.S3.RetryBudget, min(30*time.Second, d.cfg.S3.RetryBudget)
	own.CopyLimit = d.seams.copyLimit
	own.Budget, own.Wrap, own.Logger, own.Registerer = budget, d.seams.transport, d.log, d.registry
	if d.store, err = s3.New(own); err != nil {
		return err
	}
	roles := make(map[string]s3.Config, len(d.cfg.S3Roles))
	for arn, c := range d.cfg.S3Roles {
		roles[arn] = c.config()
	}
	d.roles, err = s3.NewRoles(d.store, roles)
	return err
}

// wire makes the rooms and gives each what it asks for.
func (d *daemon) wire(ctx context.Context) error {
	journal, uploads := session.Journal(d.db), storage.Stores(d.stores)
	if d.seams.journal != nil {
		journal = d.seams.journal(journal)
	}
	if d.seams.stores != nil {
		uploads = d.seams.stores(uploads)
	}
	metrics := session.NewMetrics(d.registry)
	var err error
	d.recovering = session.RecoverConfig{
		Node: d.db.Node(), Unfinished: d.db.Unfinished, Journal: d.db, Stores: d.stores, Realm: d.cfg.Realm,
		Log: d.log, Metrics: metrics, Now: time.Now,
	}
	d.mindNewerFiles()
	d.recovery, err = session.Recover(ctx, d.recovering)
	if err != nil {
		return fmt.Errorf("read the uploads that a dead process left: %w", err)
	}
	d.recorder = d.newRecorder()
	recorder := d.recorder
	if recorder != nil && d.seams.recorder != nil {
		recorder = d.seams.recorder(recorder)
	}
	if err := d.wireEvents(ctx); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	d.sessions = session.NewManager(session.Config{
		Node: d.db.Node(), Journal: journal, Log: d.log, Metrics: metrics, Now: time.Now, Unsettled: d.unsettled,
		TempNames: d.cfg.Uploads.TempNames, RenameTimeout: d.cfg.Uploads.RenameTimeout, RenameGrace: d.cfg.Uploads.RenameGrace,
		Integrity: d.cfg.Uploads.Integrity, Recorder: recorder, Adopt: d.db.Adopt,
	})
	if d.engine, err = workflow.New(workflow.Config{
		Executions: d.db, Steps: d.steps(), Log: d.log, Registerer: d.registry, Now: time.Now, StepTimeout: d.seams.stepTimeout,
	}); err != nil {
		return err
	}
	if err := d.wireIdentity(); err != nil {
		return err
	}
	if err := d.wireFleet(uploads); err != nil {
		return err
	}
	return d.wireHTTP()
}

func (d *daemon) steps() map[string]workflow.Step {
	all := steps.New(d.stores)
	all[workflow.TypeCopy] = &steps.Copy{Stores: d.stores, Piece: d.seams.copyPiece}
	all[workflow.TypeDecrypt] = &steps.Decrypt{Stores: d.stores, Secrets: d.cfg.Secrets, Now: time.Now}
	all[workflow.TypeCustom] = &steps.Custom{Targets: d.cfg.targets()}
	if d.seams.step != nil {
		for name, s := range all {
			all[name] = d.seams.step(s)
		}
	}
	return all
}

func (d *daemon) wireHTTP() error {
	control, err := api.New(api.Config{
		AccessKeys: d.cfg.Keys, Realm: d.cfg.Realm, Limits: d.cfg.Limits,
		Servers: d.db, Users: d.db, Workflows: d.db, Executions: d.db, HostKeys: d.db, Accesses: d.db,
		Callbacks:   d.engine,
		KnownPolicy: knownPolicy, TestProvider: testProvider{d.dispatch},
		NewHostKeys: func() ([]hostkeys.Key, error) { return hostkeys.Generate(time.Now()) },
		ParseHostKey: func(pem string) (hostkeys.Key, error) {
			return hostkeys.Parse([]byte(pem), "", time.Now())
		},
		TokenKey: pageKey(d.cfg), Now: time.Now, Log: d.log, Registerer: d.registry,
	})
	if err != nil {
		return err
	}
	complaints := slog.NewLogLogger(d.log.Handler(), slog.LevelInfo) // of handshakes that fail and the like
	d.apiServer = &http.Server{Handler: control, ErrorLog: complaints, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	if d.cfg.Certificate != (KeyPair{}) {
		certificate, err := newCertificate(d.cfg.Certificate, d.log)
		if err != nil {
			return fmt.Errorf("TLS of the control API: %w", err)
		}
		d.apiServer.TLSConfig = certificate.tlsConfig()
	}
	d.metricsServer = &http.Server{Handler: d.metricsHandler(), ErrorLog: complaints, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	return nil
}

// knownPolicy refuses what AWS does not have, and what this build could not offer any algorithm of.
func knownPolicy(name string) error {
	policy, ok := server.LookupPolicy(name)
	if !ok {
		return errors.New("unknown security policy " + name)
	}
	return sftpd.CheckPolicy(policy)
}

// address is where a server listens, as a tag says.
func (d *daemon) address(ctx context.Context, id server.ID, tag string) (string, error) {
	changed, stop := d.db.Changed()
	defer stop()
	for {
		s, err := d.db.Server(ctx, id)
		if err != nil {
			return "", err
		}
		switch s.State {
		case server.Online:
			return tagValue(s, tag), nil
		case server.StartFailed:
			return "", fmt.Errorf("server %s cannot start: %s", id, tagValue(s, fleet.TagStartError))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// askAddress asks for an address for a server that exists already; it counts when the server starts.
func (d *daemon) askAddress(ctx context.Context, id server.ID, tag, address string) error {
	err := d.db.UpdateServer(ctx, id, func(s *server.Server) error {
		s.Tags = slices.DeleteFunc(s.Tags, func(t server.Tag) bool { return t.Key == tag })
		s.Tags = append(s.Tags, server.Tag{Key: tag, Value: address})
		return nil
	})
	var gone *server.NotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	return err
}

func tagValue(s server.Server, key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}

// hostKeyCallback accepts exactly the host keys of a server of ours.
func (d *daemon) hostKeyCallback(id server.ID) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, offered ssh.PublicKey) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		keys, err := d.db.HostKeys(ctx, id)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Fingerprint == hostkeys.Fingerprint(offered) {
				return nil
			}
		}
		return fmt.Errorf("host key %s is not the server's", hostkeys.Fingerprint(offered))
	}
}

// object reads an object and its tags whole, for the demo's account.
func (d *daemon) object(ctx context.Context, bucket, name string) ([]byte, map[string]string, error) {
	b, err := d.store.Backend(ctx, "S3", bucket)
	if err != nil {
		return nil, nil, err
	}
	info, err := b.Stat(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	r, err := b.Open(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(io.NewSectionReader(r, 0, info.Size()))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, nil, err
	}
	tagged, ok := b.(storage.TagReader)
	if !ok {
		return content, nil, nil
	}
	tags, err := tagged.Tags(ctx, name)
	return content, tags, err
}

// verdictOf is the verdict of the latest upload to a place; nil while it has none.
func (d *daemon) verdictOf(ctx context.Context, at storage.Location) (*session.Verdict, error) {
	record, found, err := d.db.LastUpload(ctx, at)
	if err != nil || !found {
		return nil, err
	}
	return record.Verdict, nil
}

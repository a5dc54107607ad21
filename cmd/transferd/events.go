package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// eventsFile says who is told of what became of files.
type eventsFile struct {
	// Who is told, by names of your choice, each with one of url, file, sqs, sns and eventbridge, as
	// billing: {url: URL, secret: SECRET}. A name that is new is told what happens from then on; a name stands for how far
	// its sink is, so a renamed one begins anew. All keys stand in docs/events.md.
	Sinks map[string]sinkFile `yaml:"sinks"`
	// How long events are kept: to be sent to a sink that is away, and to be sent again by transferd events replay.
	Retention time.Duration `yaml:"retention"`
	// How long events are kept that were given up because a sink did not take them (keys tries and give_up of a sink).
	DeadRetention time.Duration `yaml:"dead_retention"`
}

// sinkFile is one receiver of events.
type sinkFile struct {
	// An https URL that each event is posted to; http is for this machine alone.
	URL string `yaml:"url"`
	// What signs the posts: the key of the HMAC-SHA256 in Transferd-Signature. Better in TRANSFERD_EVENT_SECRETS.
	Secret string `yaml:"secret"`
	// A file of certificates, PEM, that the receiver's must come from. Empty: the system's.
	CA string `yaml:"ca"`
	// A file that events are appended to, one a line.
	File string `yaml:"file"`
	// Have each line on the disk before it counts as delivered (default true).
	Sync *bool `yaml:"sync"`
	// The URL of an SQS queue, the ARN of an SNS topic, the name or ARN of an EventBridge bus.
	SQS         string `yaml:"sqs"`
	SNS         string `yaml:"sns"`
	EventBridge string `yaml:"eventbridge"`
	// Where that service is. Empty is AWS's own for the region.
	Endpoint string `yaml:"endpoint"`
	// The region. Empty is the daemon's.
	Region string `yaml:"region"`
	// The access key id to use there.
	AccessKey string `yaml:"access_key"`
	// Its secret. Better in TRANSFERD_EVENT_SECRETS.
	SecretKey string `yaml:"secret_key"`
	// The token of temporary credentials, if they are.
	SessionToken string `yaml:"session_token"`
	// aws: as EventBridge delivers events (default); cloudevents: CloudEvents 1.0.
	Format string `yaml:"format"`
	// The Source of events on EventBridge (default transferd): it refuses AWS's own.
	Source string `yaml:"source"`
	// Which events are sent: upload, download, delete, rename, directory-create and directory-delete. Empty: all. If no sink
	// wants downloads, say, nothing is written for them.
	Kinds []string `yaml:"kinds"`
	// How long one delivery may take (default 10s).
	Timeout time.Duration `yaml:"timeout"`
	// How often an event is sent that the receiver refuses, as with a status of 400, before it is given up (default 10).
	Tries int `yaml:"tries"`
	// For how long an event is sent that fails otherwise while the receiver takes others, before it is given up (default 1h).
	// While the receiver takes nothing, nothing is given up.
	GiveUp time.Duration `yaml:"give_up"`
	// How many deliveries may be under way at a time (default 8).
	Parallel int `yaml:"parallel"`
}

const (
	// envEventSecrets holds secrets of sinks, NAME=SECRET, several with spaces or commas between them.
	envEventSecrets = "TRANSFERD_EVENT_SECRETS"

	eventRetention = 7 * 24 * time.Hour
	deadRetention  = 30 * 24 * time.Hour
	eventTimeout   = 10 * time.Second
	eventParallel  = 8
	// fileBatch is how many events go to a file in one write.
	fileBatch = 100
	// pruneEventsEvery is how often old events are forgotten.
	pruneEventsEvery = time.Hour
	// deedsPatience bounds how long a start waits for what dead deeds came to.
	deedsPatience = 5 * time.Second
)

// addEventSecrets puts the environment's secrets over those of the file. A sink that the file does not have is nobody's.
func (f *configFile) addEventSecrets(getenv func(string) string) error {
	separator := func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }
	for i, pair := range strings.FieldsFunc(getenv(envEventSecrets), separator) {
		name, secret, ok := strings.Cut(pair, "=")
		if !ok || name == "" || secret == "" {
			return fmt.Errorf("%s: entry %d is not NAME=SECRET", envEventSecrets, i+1)
		}
		sink, known := f.Events.Sinks[name]
		if !known {
			continue
		}
		if sink.URL != "" {
			sink.Secret = secret
		} else {
			sink.SecretKey = secret
		}
		f.Events.Sinks[name] = sink
	}
	return nil
}

// judgeEvents says what cannot be sent to.
func (f *configFile) judgeEvents(at yamlstrict.Lines) error {
	var errs []error
	if f.Events.Retention <= 0 {
		errs = append(errs, at.At("events.retention", "must be more than 0"))
	}
	if f.Events.DeadRetention <= 0 {
		errs = append(errs, at.At("events.dead_retention", "must be more than 0"))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Events.Sinks)) {
		for _, wrong := range f.Events.Sinks[name].judge(name) {
			errs = append(errs, at.At("events.sinks."+name, wrong))
		}
	}
	return errors.Join(errs...)
}

func (s sinkFile) judge(name string) []string {
	var wrong []string
	require := func(ok bool, reason string) {
		if !ok {
			wrong = append(wrong, reason)
		}
	}
	kinds := 0
	for _, given := range []string{s.URL, s.File, s.SQS, s.SNS, s.EventBridge} {
		if given != "" {
			kinds++
		}
	}
	aws := s.SQS+s.SNS+s.EventBridge != ""
	secret := envEventSecrets + "=" + name + "=SECRET in the environment, or here"
	require(regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`).MatchString(name), "must be named with letters, digits, _, . and -")
	require(kinds == 1, "needs exactly one of url, file, sqs, sns and eventbridge")
	require(s.URL == "" || functionURL(s.URL), "url must be an https URL; http is for this machine alone")
	require(s.URL == "" || s.Secret != "", "needs a secret: "+secret)
	require(s.File == "" || filepath.IsAbs(s.File), "file must be an absolute path")
	require(s.SQS == "" || functionURL(s.SQS), "sqs must be the https URL of a queue")
	require(s.Endpoint == "" || aws && functionURL(s.Endpoint), "endpoint must be an https URL, of a service of AWS")
	require(!aws || s.AccessKey != "", "needs an access_key")
	require(!aws || s.SecretKey != "", "needs a secret_key: "+secret)
	require(s.Format == "" || s.Format == string(events.AWSShape) || s.Format == string(events.CloudEvents) && s.EventBridge == "", "format must be aws or, but for eventbridge, cloudevents")
	require(!strings.HasPrefix(s.Source, "aws."), "source must not begin with aws.: EventBridge refuses it")
	require(s.Timeout >= 0, "timeout must not be negative")
	require(s.Tries >= 0, "tries must not be negative")
	require(s.GiveUp >= 0, "give_up must not be negative")
	require(s.Parallel >= 0 && s.Parallel <= 64, "parallel must be 1 to 64")
	for _, kind := range s.Kinds {
		_, is := eventKinds()[kind]
		require(is, "kinds must be of "+strings.Join(slices.Sorted(maps.Keys(eventKinds())), ", "))
	}
	_, err := s.roots()
	require(err == nil, fmt.Sprint("ca: ", err))
	return wrong
}

// eventKinds are the events by the names that the configuration has for them.
func eventKinds() map[string]events.Kind {
	return map[string]events.Kind{
		"upload": events.Upload, "download": events.Download, "delete": events.Delete, "rename": events.Rename,
		"directory-create": events.DirectoryCreate, "directory-delete": events.DirectoryDelete,
	}
}

// kinds are the events that a sink wants.
func (s sinkFile) kinds() []events.Kind {
	all := eventKinds()
	if len(s.Kinds) == 0 {
		return slices.Collect(maps.Values(all))
	}
	var wanted []events.Kind
	for _, kind := range s.Kinds {
		wanted = append(wanted, all[kind])
	}
	return wanted
}

// wanted are the events that any sink wants.
func (f eventsFile) wanted() (all []events.Kind) {
	for _, s := range f.Sinks {
		all = append(all, s.kinds()...)
	}
	return all
}

// roots are the certificates that the receiver's must come from, nil for the system's.
func (s sinkFile) roots() (*x509.CertPool, error) {
	if s.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(s.CA + " holds no certificate")
	}
	return pool, nil
}

// target makes the sink.
func (s sinkFile) target(name, region string) (events.Target, error) {
	roots, err := s.roots()
	if err != nil {
		return events.Target{}, fmt.Errorf("sink %s: ca: %w", name, err)
	}
	t := events.Target{Name: name, Parallel: cmp.Or(s.Parallel, eventParallel), Kinds: s.kinds(),
		Tries: s.Tries, GiveUp: s.GiveUp}
	shape, timeout := events.Shape(cmp.Or(s.Format, string(events.AWSShape))), cmp.Or(s.Timeout, eventTimeout)
	client := events.NewClient(roots, t.Parallel)
	switch {
	case s.URL != "":
		t.Sink = &events.Webhook{URL: s.URL, Secret: []byte(s.Secret), Shape: shape, Client: client, Timeout: timeout, Now: time.Now}
		return t, nil
	case s.File != "":
		t.Parallel, t.Batch = 1, fileBatch
		t.Sink = &events.File{Path: s.File, Shape: shape, Sync: s.Sync == nil || *s.Sync}
		return t, nil
	}
	a := &events.AWS{
		Service: events.SQS, Target: s.SQS, Endpoint: s.Endpoint, Region: cmp.Or(s.Region, region),
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, s.SessionToken),
		Shape:       shape, Source: cmp.Or(s.Source, "transferd"), Client: client, Timeout: timeout, Now: time.Now,
	}
	if s.SNS != "" {
		a.Service, a.Target = events.SNS, s.SNS
	} else if s.EventBridge != "" {
		a.Service, a.Target = events.EventBridge, s.EventBridge
	}
	t.Sink = a
	return t, nil
}

// sinkNames are the sinks that the configuration has.
func (c Config) sinkNames() []string { return slices.Sorted(maps.Keys(c.Events.Sinks)) }

// eventOf is how the outbox tells of a verdict; nil if nobody is to be told.
func (c Config) eventOf() func(session.Upload, session.Verdict) events.Event {
	if !slices.Contains(c.Events.wanted(), events.Upload) {
		return nil
	}
	origin := events.Origin{Region: c.Realm.Region, Account: c.Realm.Account}
	return func(u session.Upload, v session.Verdict) events.Event {
		op := events.Operation{
			ID: u.ID, Kind: events.Upload, Protocol: u.Protocol, Server: string(u.Server), User: u.User, Session: u.Session,
			ClientIP: u.SourceIP, Path: v.At(u).Path(), Bytes: v.Received, Began: u.Began, Ended: v.Ended,
		}
		if v.At(u).Domain == "S3" {
			op.ETag = strings.Trim(v.Object.ETag, `"`)
		}
		switch v.Outcome {
		case session.Partial:
			op.Failure, op.Message = events.PartialUpload, "File was partially uploaded: "+string(v.Evidence)+"."
		case session.Refused:
			op.Failure, op.Message = events.UnknownError, "The upload was refused."
		}
		return origin.Event(op)
	}
}

// recorder puts what sessions do into the outbox.
type recorder struct {
	db     *db.DB
	origin events.Origin
	wanted []events.Kind
}

// kindOf is the event of a deed.
func kindOf(kind session.DeedKind) events.Kind {
	switch kind {
	case session.Downloaded:
		return events.Download
	case session.Deleted:
		return events.Delete
	case session.Renamed:
		return events.Rename
	case session.MadeDir:
		return events.DirectoryCreate
	}
	return events.DirectoryDelete
}

// newRecorder is nil if nobody is to be told.
func (d *daemon) newRecorder() session.Recorder {
	if len(d.cfg.Events.Sinks) == 0 {
		return nil
	}
	return recorder{d.db, events.Origin{Region: d.cfg.Realm.Region, Account: d.cfg.Realm.Account}, d.cfg.Events.wanted()}
}

// Wants implements session.Recorder.
func (r recorder) Wants(kind session.DeedKind) bool { return slices.Contains(r.wanted, kindOf(kind)) }

// Intend implements session.Recorder.
func (r recorder) Intend(ctx context.Context, deed session.Deed) error { return r.db.Intend(ctx, deed) }

// Record implements session.Recorder.
func (r recorder) Record(ctx context.Context, deed session.Deed) error {
	op := events.Operation{
		ID: deed.ID, Kind: kindOf(deed.Kind), Protocol: deed.Protocol, Server: string(deed.Server), User: deed.User, Session: deed.Session,
		ClientIP: deed.SourceIP, Path: deed.Path, NewPath: deed.NewPath, Bytes: deed.Bytes, Began: deed.Began, Ended: deed.Ended,
	}
	switch {
	case deed.Cut:
		op.Failure, op.Message = events.PartialDownload, "File was partially downloaded."
	case deed.Failure != "":
		op.Failure, op.Message = events.UnknownError, deed.Failure+"."
	}
	if deed.ID == "" {
		return r.db.Record(ctx, r.origin.Event(op))
	}
	return r.db.Settle(ctx, r.origin.Event(op))
}

// recoverDeeds tells how the deeds of a dead process ended, those of this one before it or of another node. It looks once
// before it returns: then what clients do next is told later, in the order of what happened. What a store could not answer
// goes on beside them.
func (d *daemon) recoverDeeds(ctx context.Context, deeds []session.Deed, unsettled func(storage.Location) bool) *session.Deeds {
	left := &session.Deeds{Deeds: deeds, Recorder: d.recorder, Stores: d.stores, Unsettled: unsettled, Log: d.log, Now: time.Now}
	if d.recorder == nil {
		left.Deeds = nil
		return left
	}
	first, cancel := context.WithTimeout(ctx, deedsPatience)
	defer cancel()
	left.Settle(first)
	return left
}

// wireEvents makes what sends the outbox to the sinks. The sinks are known before anything happens that they are told of.
func (d *daemon) wireEvents(ctx context.Context) error {
	if err := d.db.Sinks(ctx, d.cfg.sinkNames()); err != nil {
		return err
	}
	cfg := events.Config{Outbox: d.db, Dead: d.db, Log: d.log, Registerer: d.registry, Now: time.Now}
	for _, name := range d.cfg.sinkNames() {
		t, err := d.cfg.Events.Sinks[name].target(name, d.cfg.Realm.Region)
		if err != nil {
			return err
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	var err error
	if d.events, err = events.New(cfg); err != nil {
		return err
	}
	dead, err := d.db.Deeds(ctx)
	if err != nil {
		return err
	}
	d.deeds = d.recoverDeeds(ctx, dead, d.recovery.Unsettled)
	if d.recorder == nil && len(dead) > 0 {
		return d.db.ForgetDeeds(ctx)
	}
	return nil
}

// sendEvents sends events to the sinks until ctx ends, and forgets old ones.
func (d *daemon) sendEvents(ctx context.Context) {
	if len(d.cfg.Events.Sinks) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.events.Run(ctx)
	}()
	defer func() { <-done }()
	tick := time.NewTicker(pruneEventsEvery)
	defer tick.Stop()
	for {
		_, lost, err := d.db.PruneEvents(ctx, time.Now().Add(-d.cfg.Events.Retention), d.cfg.sinkNames())
		if err != nil && ctx.Err() == nil {
			d.log.Error("old events cannot be forgotten: trying again later", "error", err.Error())
		}
		for sink, n := range lost {
			d.log.Error("events were forgotten that a sink has never had: it was away for too long", "sink", sink, "events", n, "retention", d.cfg.Events.Retention.String())
			d.events.Lost(sink, n)
		}
		if _, err := d.db.PruneDead(ctx, time.Now().Add(-d.cfg.Events.DeadRetention)); err != nil && ctx.Err() == nil {
			d.log.Error("old events that were given up cannot be forgotten: trying again later", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// loadEvents reads a file that holds nothing but the key events, for dev mode; "" is none.
func loadEvents(name string, getenv func(string) string) (eventsFile, error) {
	f := configFile{Events: eventsFile{Retention: eventRetention, DeadRetention: deadRetention}}
	if name == "" {
		return f.Events, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return f.Events, err
	}
	node, err := yamlstrict.Parse(b)
	if err != nil {
		return f.Events, fmt.Errorf("%s: %w", name, err)
	}
	only := struct {
		Events eventsFile `yaml:"events"`
	}{f.Events}
	lines, err := yamlstrict.Decode(node, &only)
	if f.Events = only.Events; err == nil {
		err = errors.Join(f.addEventSecrets(getenv), f.judgeEvents(lines))
	}
	if err != nil {
		return f.Events, fmt.Errorf("%s:\n%w", name, err)
	}
	return f.Events, nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/workflow/steps/gnupgtest"
)

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

func planOf(s ...types.WorkflowStep) []types.WorkflowStep { return s }

func s3To(key string) *types.InputFileLocation { return onS3(devBucket, key) }

func efsTo(path string) *types.InputFileLocation { return onEFS(devFileSystem, path) }

// stepWorld is what the cases work with.
type stepWorld struct {
	plain, sealed, broken, others []byte
	bucketUser                    string
}

const (
	cannotTag  = "Cannot tag Efs file"
	damaged    = "it was changed or cut short after it was encrypted."
	unanswered = "the storage did not answer."
	noTime     = "The step took too long."
)

// onBucket are uploads to S3, in order: some work on what those before them made.
func (w *stepWorld) onBucket() []stepCase {
	plain, sealed, replaced := w.plain, w.sealed, []byte("new")
	return []stepCase{
		{"copy", plain, planOf(copyStep(s3To("kept/${transfer:UserName}/"))), "COPY ok", "", "S3:kept/" + w.bucketUser + "/copy", plain},
		{"onto", plain, planOf(copyStep(s3To("onto"))), "COPY BAD_REQUEST", "onto itself", "", nil},
		{"stands", plain, planOf(copyStep(s3To("x")), copyStep(s3To("x"))), "COPY ok, COPY BAD_REQUEST", "onto itself", "S3:x", plain},
		{"taken", replaced, planOf(copyStep(s3To("x"))), "COPY ALREADY_EXISTS", "the target exists", "S3:x", plain},
		{"replaced", replaced, planOf(overwrites(copyStep(s3To("x")))), "COPY ok", "", "S3:x", replaced},
		{"nobucket", plain, planOf(copyStep(onS3("there-is-none", "x"))), "COPY NOT_FOUND", "there-is-none", "", nil},
		{"tofs", plain, planOf(copyStep(efsTo("/from-s3/${transfer:UploadDate}/f"))), "COPY ok", "", "", nil},
		{"round", plain, planOf(copyStep(efsTo("/round/")), copyStep(s3To("round-again")), deleteStep()), "COPY ok, COPY ok, DELETE ok", "", "EFS:round/round", plain},
		{"tofstaken", replaced, planOf(copyStep(efsTo("/round/round"))), "COPY ALREADY_EXISTS", "the target exists", "EFS:round/round", plain},
		{"tofsreplaced", replaced, planOf(overwrites(copyStep(efsTo("/round/round")))), "COPY ok", "", "EFS:round/round", replaced},
		{"tofsdots", plain, planOf(copyStep(efsTo("/round/../f"))), "COPY BAD_REQUEST", "a . or ..", "EFS:f", nil},
		{"nofs", plain, planOf(copyStep(onEFS("fs-00000000", "/x"))), "COPY NOT_FOUND", "fs-00000000", "", nil},
		{"tag", plain, planOf(tagStep("tagged")), "TAG ok", "", "S3:tag", plain},
		{"delete", plain, planOf(deleteStep(), deleteStep()), "DELETE ok, DELETE NOT_FOUND", "no such file", "", nil},
		{"untagged", plain, planOf(deleteStep(), tagStep("x")), "DELETE ok, TAG NOT_FOUND", "no such file", "", nil},
		{"uncopied", plain, planOf(deleteStep(), copyStep(s3To("y"))), "DELETE ok, COPY NOT_FOUND", "no such file", "S3:y", nil},
		{"open.gpg", sealed, planOf(decryptStep(s3To("plain/")), tagStep("opened")), "DECRYPT ok, TAG ok", "", "S3:plain/open.gpg", plain},
		{"opentaken", sealed, planOf(decryptStep(s3To("replaced"))), "DECRYPT ALREADY_EXISTS", "the target exists", "S3:replaced", replaced},
		{"openreplaced", sealed, planOf(overwrites(decryptStep(s3To("replaced")))), "DECRYPT ok", "", "S3:replaced", plain},
		{"opentofs", sealed, planOf(decryptStep(efsTo("/plain/f"))), "DECRYPT ok", "", "EFS:plain/f", plain},
		{"opentofstaken", sealed, planOf(decryptStep(efsTo("/round/round"))), "DECRYPT ALREADY_EXISTS", "the target exists", "EFS:round/round", replaced},
		{"brokentofs", w.broken, planOf(decryptStep(efsTo("/plain/never"))), "DECRYPT BAD_REQUEST", damaged, "EFS:plain/never", nil},
		{"opentonofs", sealed, planOf(decryptStep(onEFS("fs-00000000", "/x"))), "DECRYPT NOT_FOUND", "fs-00000000", "", nil},
		{"openbroken", w.broken, planOf(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", damaged, "S3:never", nil},
		{"opentext", plain, planOf(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", "it is no OpenPGP message", "S3:never", nil},
		{"openother", w.others, planOf(decryptStep(s3To("never"))), "DECRYPT BAD_REQUEST", "none of the keys", "S3:never", nil},
		{"opengone", sealed, planOf(deleteStep(), decryptStep(s3To("never"))), "DELETE ok, DECRYPT NOT_FOUND", "no such file", "S3:never", nil},
	}
}

// onDisk are uploads to EFS, in order.
func (w *stepWorld) onDisk() []stepCase {
	plain, sealed, replaced := w.plain, w.sealed, []byte("new")
	return []stepCase{
		{"copy", plain, planOf(copyStep(efsTo("/${transfer:UserName}/sub/"))), "COPY ok", "", "EFS:anna/sub/copy", plain},
		{"taken", replaced, planOf(copyStep(efsTo("/anna/sub/copy"))), "COPY ALREADY_EXISTS", "the target exists", "EFS:anna/sub/copy", plain},
		{"replaced", replaced, planOf(overwrites(copyStep(efsTo("/anna/sub/copy")))), "COPY ok", "", "EFS:anna/sub/copy", replaced},
		{"others", plain, planOf(copyStep(efsTo("/ben/f"))), "COPY PERMISSION_DENIED", "access denied", "EFS:ben/f", nil},
		{"onto", plain, planOf(copyStep(efsTo("/anna/"))), "COPY BAD_REQUEST", "onto itself", "", nil},
		{"tos3", plain, planOf(copyStep(s3To("from-efs/")), tagStep("there")), "COPY ok, TAG ok", "", "S3:from-efs/tos3", plain},
		{"tos3taken", replaced, planOf(copyStep(s3To("from-efs/tos3"))), "COPY ALREADY_EXISTS", "the target exists", "S3:from-efs/tos3", plain},
		{"tonobucket", plain, planOf(copyStep(onS3("there-is-none", "x"))), "COPY NOT_FOUND", "there-is-none", "", nil},
		{"tag", plain, planOf(tagStep("x")), "TAG BAD_REQUEST", cannotTag, "", nil},
		{"delete", plain, planOf(deleteStep(), deleteStep()), "DELETE ok, DELETE NOT_FOUND", "no such file", "EFS:anna/delete", nil},
		{"uncopied", plain, planOf(deleteStep(), copyStep(efsTo("/anna/y"))), "DELETE ok, COPY NOT_FOUND", "no such file", "EFS:anna/y", nil},
		{"becomes-a-folder", plain, planOf(customStep("", "url", 0), deleteStep()), "CUSTOM ok, DELETE BAD_REQUEST", "it is a directory", "", nil},
		{"folder/locked-in", plain, planOf(customStep("", "url", 0), deleteStep()), "CUSTOM ok, DELETE PERMISSION_DENIED", "access denied", "EFS:anna/folder/locked-in", plain},
		{"open", sealed, planOf(decryptStep(efsTo("/anna/plain/f"))), "DECRYPT ok", "", "EFS:anna/plain/f", plain},
		{"opentaken", sealed, planOf(decryptStep(efsTo("/anna/onto"))), "DECRYPT ALREADY_EXISTS", "the target exists", "EFS:anna/onto", plain},
		{"openbroken", w.broken, planOf(overwrites(decryptStep(efsTo("/anna/plain/f")))), "DECRYPT BAD_REQUEST", damaged, "EFS:anna/plain/f", plain},
		{"openothers", sealed, planOf(decryptStep(efsTo("/ben/f"))), "DECRYPT PERMISSION_DENIED", "access denied", "EFS:ben/f", nil},
		{"opengone", sealed, planOf(deleteStep(), decryptStep(efsTo("/anna/never"))), "DELETE ok, DECRYPT NOT_FOUND", "no such file", "EFS:anna/never", nil},
		{"opentos3", sealed, planOf(decryptStep(s3To("from-efs/opened"))), "DECRYPT ok", "", "S3:from-efs/opened", plain},
		{"opentos3taken", sealed, planOf(decryptStep(s3To("from-efs/tos3"))), "DECRYPT ALREADY_EXISTS", "the target exists", "S3:from-efs/tos3", plain},
		{"opentos3broken", w.broken, planOf(decryptStep(s3To("from-efs/never"))), "DECRYPT BAD_REQUEST", damaged, "S3:from-efs/never", nil},
		{"opentonobucket", sealed, planOf(decryptStep(onS3("there-is-none", "x"))), "DECRYPT NOT_FOUND", "there-is-none", "", nil},
		{"opentext", plain, planOf(decryptStep(efsTo("/anna/never"))), "DECRYPT BAD_REQUEST", "it is no OpenPGP message", "EFS:anna/never", nil},
	}
}

// toFunctions are uploads for CUSTOM steps; answerTo does what their names say.
func (w *stepWorld) toFunctions() []stepCase {
	var cases []stepCase
	for _, c := range []struct {
		name, function string
		seconds        int
		want, message  string
	}{
		{"succeeds", "url", 0, "ok", ""},
		{"fails", "url", 0, "CUSTOM_STEP_FAILED", "The custom step reported FAILURE."},
		{"silent", "url", 5, "TIMEOUT", "in time."},
		{"throttled", "lambda", 0, "THROTTLED", "The Lambda function is called too often."},
		{"denied", "lambda", 0, "PERMISSION_DENIED", "Access to the Lambda function was denied."},
		{"nobody", "unknown", 0, "BAD_REQUEST", "No function is configured for " + functionARN + "unknown."},
	} {
		cases = append(cases, stepCase{c.name, w.plain, planOf(customStep("", c.function, c.seconds)), "CUSTOM " + c.want, c.message, "", nil})
	}
	return cases
}

// withFaults are uploads whose steps find the store in the state that a name says, at the way in or out.
func (w *stepWorld) withFaults() (bucket, disk []stepCase) {
	for _, fault := range []struct{ word, want, message string }{
		{"bad", "BAD_REQUEST", "the storage refused the request."},
		{"denied", "PERMISSION_DENIED", "access denied."},
		{"down", "INTERNAL_SERVER_ERROR", unanswered},
		{"slow", "INTERNAL_SERVER_ERROR", unanswered},
		{"hang", "TIMEOUT", noTime},
	} {
		add := func(to *[]stepCase, name string, content []byte, step types.WorkflowStep, made string) {
			*to = append(*to, stepCase{name, content, planOf(step), string(step.Type) + " " + fault.want, fault.message, made, nil})
		}
		out, in := "fault-"+fault.word+"/", "fault-"+fault.word+"."
		add(&bucket, "copy-"+fault.word, w.plain, copyStep(s3To(out)), "")
		add(&bucket, "open-"+fault.word, w.sealed, decryptStep(s3To(out)), "")
		add(&bucket, in+"copy", w.plain, copyStep(efsTo("/faults/copy-"+fault.word)), "EFS:faults/copy-"+fault.word)
		add(&bucket, in+"open", w.sealed, decryptStep(efsTo("/faults/open-"+fault.word)), "EFS:faults/open-"+fault.word)
		add(&bucket, in+"tag", w.plain, tagStep("x"), "")
		add(&bucket, in+"delete", w.plain, deleteStep(), "")
		add(&disk, "copy-"+fault.word, w.plain, copyStep(s3To(out)), "")
		add(&disk, "open-"+fault.word, w.sealed, decryptStep(s3To(out)), "")
	}
	return bucket, disk
}

// answerTo is what the functions do, by the file's name.
func (p *proc) answerTo(c call, w http.ResponseWriter) error {
	disk := p.env["EFS_DIR"]
	status := types.CustomStepStatusSuccess
	switch path.Base(c.FileLocation.Key + c.FileLocation.Path) {
	case "silent":
		return nil
	case "denied":
		w.WriteHeader(http.StatusForbidden)
		return nil
	case "throttled":
		w.Header().Set("X-Amzn-ErrorType", "TooManyRequestsException")
		w.WriteHeader(http.StatusTooManyRequests)
		return nil
	case "fails":
		status = types.CustomStepStatusFailure
	case "becomes-a-folder":
		name := filepath.Join(disk, c.FileLocation.Path)
		if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o755)); err != nil {
			return err
		}
	case "locked-in":
		if err := os.Chown(filepath.Join(disk, path.Dir(c.FileLocation.Path)), 0, 0); err != nil {
			return err
		}
	}
	return p.send(context.WithoutCancel(p.t.Context()), c, c.Token, status)
}

// cannotHappen says why a type of step, between those stores, never ends in that way.
func cannotHappen(kind, way, result string) string {
	switch {
	case kind != "CUSTOM" && (result == "CUSTOM_STEP_FAILED" || result == "THROTTLED"):
		return "only a function says so"
	case kind != "COPY" && kind != "DECRYPT" && result == "ALREADY_EXISTS":
		return "it makes no file"
	case kind == "TAG" && way == "EFS" && result != "BAD_REQUEST":
		return "AWS refuses it before anything else"
	case kind == "CUSTOM" && result == "NOT_FOUND":
		return "the file is the function's to look for"
	case kind == "CUSTOM" && result == "INTERNAL_SERVER_ERROR":
		return "whatever is wrong with a function is CUSTOM_STEP_FAILED"
	case way == "EFS" && kind != "CUSTOM" && (result == "TIMEOUT" || result == "INTERNAL_SERVER_ERROR" && kind != "DECRYPT"):
		return "a disk does not hang or break when a test asks it to; package steps has it with a store in memory"
	}
	return ""
}

// stepLedger is what ended how: the results by type and way of the step, as in "COPY S3 to EFS".
type stepLedger map[string]map[string]int

// note takes a result down for each step of an execution.
func (l stepLedger) note(domain string, steps []types.WorkflowStep, e *types.DescribedExecution) {
	for i, r := range e.Results.Steps {
		to := domain
		if at := destinationOf(steps[i]); at != nil && at.EfsFileLocation != nil {
			to = "EFS"
		} else if at != nil {
			to = "S3"
		}
		way := string(r.StepType) + " " + domain
		if to != domain {
			way += " to " + to
		}
		if l[way] == nil {
			l[way] = map[string]int{}
		}
		if r.Error != nil {
			l[way][string(r.Error.Type)]++
			return
		}
		l[way]["ok"]++
		domain = to // of ${previous.file}
	}
}

func destinationOf(s types.WorkflowStep) *types.InputFileLocation {
	switch {
	case s.CopyStepDetails != nil:
		return s.CopyStepDetails.DestinationFileLocation
	case s.DecryptStepDetails != nil:
		return s.DecryptStepDetails.DestinationFileLocation
	}
	return nil
}

// check prints the ledger and misses what is not in it without a reason.
func (l stepLedger) check(t *testing.T) {
	t.Helper()
	var results []string
	for _, e := range types.ExecutionErrorType("").Values() {
		results = append(results, string(e))
	}
	results = append([]string{"ok"}, slices.Sorted(slices.Values(results))...)
	for _, kind := range types.WorkflowStepType("").Values() {
		ways := []string{"S3", "EFS"}
		if kind == types.WorkflowStepTypeCopy || kind == types.WorkflowStepTypeDecrypt {
			ways = append(ways, "S3 to EFS", "EFS to S3")
		}
		for _, way := range ways {
			seen := l[string(kind)+" "+way]
			for _, result := range results {
				reason := cannotHappen(string(kind), way, result)
				if (seen[result] > 0) == (reason != "") {
					t.Errorf("%s %s: %s came %d times; why it may not come: %q", kind, way, result, seen[result], reason)
				}
			}
			t.Logf("%-18s %v", string(kind)+" "+way, fmt.Sprint(slices.Sorted(maps.Keys(seen))))
		}
	}
}

// TestSteps: every type of step in and between both domains, its success and each of its errors, by real uploads and as
// DescribeExecution shows them.
func TestSteps(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	g := gnupgtest.New(t)
	g.Key("key", "curve", "")
	g.Key("other", "curve", "")
	p, bucket, disk := startSteps(t, map[string]string{"PGPPrivateKey": g.Private("key", "")})
	plain := []byte("words and more of them")
	w := &stepWorld{plain: plain, sealed: g.Encrypt(plain, "key"), others: g.Encrypt(plain, "other"), bucketUser: bucket.user}
	w.broken = bytes.Clone(w.sealed)
	w.broken[len(w.broken)-10] ^= 1
	ledger := stepLedger{}
	type begun struct {
		front  front
		domain string
		stepCase
		flow string
	}
	var all []begun
	begin := func(f front, domain string, cases []stepCase) {
		for _, c := range cases {
			all = append(all, begun{f, domain, c, p.begins(f, c.name, c.content, c.steps...)})
		}
	}
	// What takes its time, first and all at once.
	onBucket, onDisk := w.withFaults()
	for _, c := range w.toFunctions() {
		onBucket, onDisk = append(onBucket, c), append(onDisk, c)
	}
	begin(bucket, "S3", onBucket)
	begin(disk, "EFS", onDisk)
	for _, c := range w.onBucket() {
		p.checkStep("S3", c, p.runs(bucket, c.name, c.content, c.steps...), ledger)
	}
	for _, c := range w.onDisk() {
		p.checkStep("EFS", c, p.runs(disk, c.name, c.content, c.steps...), ledger)
	}
	unreadable := stepCase{"unreadable", w.sealed, planOf(decryptStep(efsTo("/ben/never"))), "DECRYPT INTERNAL_SERVER_ERROR", "cannot be read", "EFS:ben/never", nil}
	disk.user = "ben" // whose secret is a folder
	p.checkStep("EFS", unreadable, p.runs(disk, unreadable.name, unreadable.content, unreadable.steps...), ledger)
	for _, b := range all {
		p.checkStep(b.domain, b.stepCase, p.awaitAny(b.flow), ledger)
	}
	ledger.check(t)
	p.checkOwners()
}

// startSteps starts a daemon with servers of both domains, a store that has faults, functions, and a secret for everybody
// but ben.
func startSteps(t *testing.T, secret map[string]string) (p *proc, bucket, disk front) {
	t.Helper()
	var far *proc // p for the functions, while the test changes p.env
	ready := make(chan struct{})
	r := newReceiver(t, func(c call, w http.ResponseWriter) {
		<-ready
		if err := far.answerTo(c, w); err != nil {
			t.Error(err)
		}
	})
	p = startCustom(t, r, startOptions{
		args: []string{"-s3-retry", storeRetry.String(), "-workers", "64"}, env: []string{faultsVariable + "=" + faultyStore(t)}})
	far = &proc{t: t, env: maps.Clone(p.env)}
	close(ready)
	bucket = p.front()
	p.efsServer()
	locked := filepath.Join(p.env["EFS_DIR"], "anna", "folder")
	if err := errors.Join(os.Mkdir(locked, 0o755), os.Chown(locked, 2001, 2001)); err != nil {
		t.Fatal(err)
	}
	disk = p.front()
	disk.server = p.serverOf(types.DomainEfs)
	for _, f := range []front{bucket, disk} {
		writeSecret(t, filepath.Join(p.data, "secrets", "aws", "transfer", f.server, "@pgp-default.json"), secret)
	}
	if err := os.Mkdir(filepath.Join(p.data, "secrets", "aws", "transfer", disk.server, "ben.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	return p, bucket, disk
}

func (p *proc) checkStep(domain string, c stepCase, e *types.DescribedExecution, ledger stepLedger) {
	p.t.Helper()
	ledger.note(domain, c.steps, e)
	if got := shown(e); got != c.want || !strings.Contains(message(e), c.message) || c.message == "" && message(e) != "" {
		p.t.Errorf("%s %s: %s (%s), want %s (%s)", domain, c.name, got, message(e), c.want, c.message)
	}
	if last := e.Results.Steps[len(e.Results.Steps)-1]; last.StepType == types.WorkflowStepTypeTag && last.Error == nil && aws.ToString(last.Outputs) == "" {
		p.t.Errorf("%s %s: no outputs", domain, c.name)
	}
	if domain == "EFS" {
		uid := map[string]int64{"anna": 2001, "ben": 2002}[aws.ToString(e.ServiceMetadata.UserDetails.UserName)]
		if x := e.PosixProfile; x == nil || aws.ToInt64(x.Uid) != uid || len(x.SecondaryGids) != 1 || e.InitialFileLocation.EfsFileLocation == nil {
			p.t.Errorf("%s %s: PosixProfile %+v, file %+v", domain, c.name, x, e.InitialFileLocation)
		}
	}
	if c.file != "" {
		if got := p.content(c.file); !bytes.Equal(got, c.made) || (got == nil) != (c.made == nil) {
			p.t.Errorf("%s %s: %s holds %q, want %q", domain, c.name, c.file, got, c.made)
		}
	}
}

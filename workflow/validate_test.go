package workflow_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/workflow"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	const (
		good = `{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"out","Key":"${Transfer:UserName}/"}}}}`
		tag  = `{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"a","Value":"1"}]}}`
		del  = `{"Type":"DELETE","DeleteStepDetails":{"SourceFileLocation":"${original.file}"}}`
	)
	tests := []struct{ workflow, want string }{
		{`{"Steps":[` + good + `,` + tag + `,` + del + `],"OnExceptionSteps":[` + tag + `]}`, ""},
		{`{}`, "at least one step"},
		{`{"Steps":[{"Type":"CUSTOM","CustomStepDetails":{}}]}`, "step 1 of Steps: a CUSTOM step needs Target"},
		{`{"Steps":[{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","TimeoutSeconds":1800,"Name":"n","SourceFileLocation":"${original.file}"}}]}`, ""},
		{`{"Steps":[{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","TimeoutSeconds":1801}}]}`, "TimeoutSeconds must be from 1 to 1800"},
		{`{"Steps":[{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","TimeoutSeconds":-1}}]}`, "TimeoutSeconds"},
		{`{"Steps":[{"Type":"CUSTOM","CustomStepDetails":{"Target":"arn:aws:lambda:x","SourceFileLocation":"${x.file}"}}]}`, "SourceFileLocation"},
		{`{"Steps":[{"Type":"DECRYPT"}]}`, "a DECRYPT step needs its step details"},
		{`{"Steps":[{"Type":"DECRYPT","DecryptStepDetails":{"Type":"PGP"}}]}`, "DestinationFileLocation"},
		{`{"Steps":[{"Type":"DECRYPT","DecryptStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"out"}}}}]}`, "Type PGP"},
		{`{"Steps":[{"Type":"DECRYPT","DecryptStepDetails":{"Type":"PGP","DestinationFileLocation":{"S3FileLocation":{"Bucket":"out"}}}}]}`, ""},
		{`{"Steps":[{"Type":"DECRYPT","DecryptStepDetails":{"Type":"PGP","DestinationFileLocation":{"EfsFileLocation":{"FileSystemId":"fs-12345678","Path":"/${transfer:UserName}/"}}}}]}`, ""},
		{`{"Steps":[{"Type":"RENAME"}]}`, `unknown step type "RENAME"`},
		{`{"Steps":[{"Type":"TAG"}]}`, "a TAG step needs its step details"},
		{`{"Steps":[{"Type":"TAG","TagStepDetails":{}}]}`, "at least one tag"},
		{`{"Steps":[{"Type":"TAG","TagStepDetails":{"Tags":[{"Key":"a"},{"Key":"a"}]}}]}`, `"a" is given twice`},
		{`{"Steps":[{"Type":"DELETE","DeleteStepDetails":{},"TagStepDetails":{}}]}`, "details of another type"},
		{`{"Steps":[{"Type":"DELETE","DeleteStepDetails":{},"CustomStepDetails":{}}]}`, "details of another type"},
		{`{"Steps":[{"Type":"DELETE","DeleteStepDetails":{"SourceFileLocation":"${next.file}"}}]}`, "SourceFileLocation must be"},
		{`{"Steps":[` + tag + `],"OnExceptionSteps":[` + tag + `,{"Type":"COPY","CopyStepDetails":{}}]}`, "step 2 of OnExceptionSteps: a COPY step needs"},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Key":"a/"}}}}]}`, "Bucket"},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"EfsFileLocation":{"Path":"/a"}}}}]}`, "FileSystemId"},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"EfsFileLocation":{"FileSystemId":"fs-12345678","Path":"/a"}}}}]}`, ""},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"EfsFileLocation":{"FileSystemId":"fs-12345678","Path":"/${transfer:Moon}"}}}}]}`, "unknown variable"},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"b"},"EfsFileLocation":{"FileSystemId":"fs-12345678","Path":"/a"}}}}]}`, "cannot have both"},
		{`{"Steps":[{"Type":"COPY","CopyStepDetails":{"DestinationFileLocation":{"S3FileLocation":{"Bucket":"out","Key":"${transfer:HomeFolder}/"}}}}]}`, "unknown variable ${transfer:HomeFolder}"},
	}
	for _, tt := range tests {
		var w workflow.Workflow
		if err := json.Unmarshal([]byte(tt.workflow), &w); err != nil {
			t.Fatal(err)
		}
		err := w.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.workflow, err, tt.want)
		}
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(`^w-([a-z0-9]{17})$`)
	seen := map[workflow.ID]bool{}
	for range 1000 {
		id := workflow.NewID()
		if !pattern.MatchString(string(id)) || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	in := &workflow.Input{
		User:       workflow.UserDetails{UserName: "${transfer:UploadDate}"},
		UploadDate: time.Date(2026, 11, 22, 23, 30, 0, 0, time.FixedZone("west", -3600)),
	}
	for text, want := range map[string]string{
		"":            "",
		"plain/${x}/": "plain/${x}/",
		"${transfer:UploadDate}/${Transfer:UserName}": "2026-11-23/${transfer:UploadDate}",
		"${TRANSFER:uploaddate}":                      "2026-11-23",
		"${transfer:UploadDate":                       "${transfer:UploadDate",
	} {
		if got, err := in.Expand(text); err != nil || got != want {
			t.Errorf("Expand(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := in.Expand("${transfer:HomeDirectory}"); err == nil || workflow.Retriable(err) {
		t.Errorf("unknown variable: %v", err)
	}
}

package events_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/transferd/transferd/server/events"
)

const (
	signatureByOpenSSL = "c275209bfed50f54f9b0d8dafaf250f3f08155fdaadece7fc4d3f5c7e3c8b6ba"
	pathHash           = "4e255791247df338e5a601912cc1fd662dbe2c14facca30215a93616f29bc304" // by sha256sum
)

var began = time.Date(2024, 1, 29, 16, 31, 43, 311866408, time.UTC)

// sample is the upload of AWS's own example (transfer-api 8.5).
func sample() events.Event {
	e := events.Origin{Region: "us-east-1", Account: "111122223333"}.Event(events.Operation{
		ID: "event-id", Kind: events.Upload, Protocol: "FTP", Server: "s-1111aaaa2222bbbb3", User: "test", Session: "0123456789abcdef",
		ClientIP: "10.0.0.141", Path: "/amzn-s3-demo-bucket/test/1mb <file>", Bytes: 1048576, ETag: "b6d8", Began: began, Ended: began.Add(time.Second),
	})
	e.Number = 7
	return e
}

const sampleDetail = `{"status-code":"COMPLETED","protocol":"FTP","bytes":1048576,"client-ip":"10.0.0.141",` +
	`"start-timestamp":"2024-01-29T16:31:43.311866408Z","end-timestamp":"2024-01-29T16:31:44.311866408Z","etag":"b6d8",` +
	`"file-path":"/amzn-s3-demo-bucket/test/1mb <file>","server-id":"s-1111aaaa2222bbbb3","username":"test","session-id":"0123456789abcdef"}`

const sampleAWS = `{"version":"0","id":"event-id","detail-type":"FTP Server File Upload Completed","source":"aws.transfer",` +
	`"account":"111122223333","time":"2024-01-29T16:31:44Z","region":"us-east-1",` +
	`"resources":["arn:aws:transfer:us-east-1:111122223333:server/s-1111aaaa2222bbbb3"],"detail":` + sampleDetail + `}`

// TestShapes: the bytes that receivers get, through the sink that shows them as they are.
func TestShapes(t *testing.T) {
	t.Parallel()
	rename := events.Origin{Region: "r", Account: "a"}.Event(events.Operation{
		ID: "2", Kind: events.Rename, Protocol: "SFTP", Server: "s", Path: "/b/old", NewPath: "/b/new", Failure: events.UnknownError, Message: "No.",
		Began: began, Ended: began,
	})
	for _, c := range []struct {
		shape events.Shape
		event events.Event
		want  string
	}{
		{events.AWSShape, sample(), sampleAWS},
		{events.CloudEvents, sample(), `{"specversion":"1.0","id":"event-id","source":"arn:aws:transfer:us-east-1:111122223333:server/s-1111aaaa2222bbbb3",` +
			`"type":"transferd.file.upload.completed","subject":"/amzn-s3-demo-bucket/test/1mb <file>","time":"2024-01-29T16:31:44.311866408Z",` +
			`"datacontenttype":"application/json","partitionkey":"/amzn-s3-demo-bucket/test/1mb <file>","sequence":"0000000000000000007","data":` + sampleDetail + `}`},
		{events.CloudEvents, rename, `{"specversion":"1.0","id":"2","source":"arn:aws:transfer:r:a:server/s","type":"transferd.file.rename.failed",` +
			`"subject":"/b/new","time":"2024-01-29T16:31:43.311866408Z","datacontenttype":"application/json","partitionkey":"/b/new",` +
			`"sequence":"0000000000000000000","data":{"status-code":"FAILED","failure-code":"UNKNOWN_ERROR","failure-message":"No.","protocol":"SFTP",` +
			`"client-ip":"","start-timestamp":"2024-01-29T16:31:43.311866408Z","end-timestamp":"2024-01-29T16:31:43.311866408Z",` +
			`"original-file-path":"/b/old","renamed-file-path":"/b/new","server-id":"s","username":"","session-id":""}}`},
	} {
		f := &events.File{Path: filepath.Join(t.TempDir(), "lines"), Shape: c.shape}
		if n, err := f.Send(t.Context(), []events.Event{c.event}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if got := contents(t, f.Path); got != c.want+"\n" {
			t.Errorf("%s\n%s\nwant\n%s", c.shape, got, c.want)
		}
	}
}

func contents(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFile: lines are added, also to a file that was cut off in the middle of one or taken away.
func TestFile(t *testing.T) {
	t.Parallel()
	f := &events.File{Path: filepath.Join(t.TempDir(), "lines"), Shape: events.AWSShape, Sync: true}
	send := func() {
		t.Helper()
		if n, err := f.Send(t.Context(), []events.Event{sample(), sample()}); n != 2 || err != nil {
			t.Error(n, err)
		}
	}
	send()
	if err := os.Truncate(f.Path, int64(len(sampleAWS)+10)); err != nil {
		t.Fatal(err)
	}
	send()
	line := sampleAWS + "\n"
	if got := contents(t, f.Path); got != line+line[:9]+"\n"+line+line {
		t.Errorf("after a cut:\n%s", got)
	}
	if err := os.Rename(f.Path, f.Path+".1"); err != nil {
		t.Fatal(err)
	}
	send()
	if got := contents(t, f.Path); got != line+line {
		t.Errorf("after a rotation:\n%s", got)
	}
	f.Path = t.TempDir()
	if n, err := f.Send(t.Context(), []events.Event{sample()}); n != 0 || err == nil {
		t.Error("a folder took lines")
	}
}

// TestSign: what docs/events.md says about the signature, computed by
// printf '1700000000.{"id":"x"}' | openssl dgst -sha256 -hmac key.
func TestSign(t *testing.T) {
	t.Parallel()
	const want = "t=1700000000,v1=" + signatureByOpenSSL
	if got := events.Sign([]byte("key"), time.Unix(1700000000, 0), []byte(`{"id":"x"}`)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestAWS: the calls to AWS's services, as their references have them, with a signature that holds; and their refusals.
func TestAWS(t *testing.T) {
	t.Parallel()
	keys := credentials.NewStaticCredentialsProvider("KEY", "only-a-test", "")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name, contentType, target, answer string
		sink                              events.AWS
		want                              map[string]string // members of the message
		refused                           string
	}{
		{name: "queue", contentType: "application/x-amz-json-1.0", target: "AmazonSQS.SendMessage", sink: events.AWS{Service: events.SQS, Target: "https://q.example/1/in"},
			want: map[string]string{"QueueUrl": "https://q.example/1/in", "MessageBody": sampleAWS, "MessageGroupId": ""}},
		{name: "fifo queue", contentType: "application/x-amz-json-1.0", target: "AmazonSQS.SendMessage", sink: events.AWS{Service: events.SQS, Target: "https://q.example/1/in.fifo"},
			want: map[string]string{"MessageBody": sampleAWS, "MessageDeduplicationId": "event-id", "MessageGroupId": pathHash}},
		{name: "topic", contentType: "application/x-www-form-urlencoded; charset=utf-8", sink: events.AWS{Service: events.SNS, Target: "arn:aws:sns:us-east-1:1:in.fifo"},
			want: map[string]string{"Action": "Publish", "Version": "2010-03-31", "TopicArn": "arn:aws:sns:us-east-1:1:in.fifo", "Message": sampleAWS,
				"MessageDeduplicationId": "event-id", "MessageGroupId": pathHash}},
		{name: "bus", contentType: "application/x-amz-json-1.1", target: "AWSEvents.PutEvents", answer: `{"FailedEntryCount":0,"Entries":[{"EventId":"x"}]}`,
			sink: events.AWS{Service: events.EventBridge, Target: "files", Source: "transferd"},
			want: map[string]string{"Source": "transferd", "DetailType": "FTP Server File Upload Completed", "EventBusName": "files",
				"Detail": strings.Replace(sampleDetail, "{", `{"event-id":"event-id",`, 1)}},
		{name: "bus that refuses", contentType: "application/x-amz-json-1.1", target: "AWSEvents.PutEvents",
			answer: `{"FailedEntryCount":1,"Entries":[{"ErrorCode":"InternalFailure","ErrorMessage":"no"}]}`,
			sink:   events.AWS{Service: events.EventBridge, Target: "files", Source: "transferd"}, refused: "InternalFailure"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || r.Header.Get("Content-Type") != c.contentType || r.Header.Get("X-Amz-Target") != c.target {
					t.Errorf("%v, headers %v", err, r.Header)
				}
				if got, want := r.Header.Get("Authorization"), authorization(t, r, body, keys, string(c.sink.Service), now); got != want {
					t.Errorf("signature %s\nwant %s", got, want)
				}
				for k, want := range c.want {
					if got := member(t, c.contentType, body, k); got != want {
						t.Errorf("%s is %q, want %q", k, got, want)
					}
				}
				if _, err := io.WriteString(w, c.answer); err != nil {
					t.Error(err)
				}
			}))
			defer server.Close()
			sink := c.sink
			sink.Endpoint, sink.Region, sink.Credentials, sink.Shape, sink.Client = server.URL+"/", "us-east-1", keys, events.AWSShape, server.Client()
			sink.Timeout, sink.Now = patience, func() time.Time { return now }
			n, err := sink.Send(t.Context(), []events.Event{sample()})
			if c.refused == "" && (n != 1 || err != nil) || c.refused != "" && (n != 0 || err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("%d sent, %v", n, err)
			}
		})
	}
}

// member reads a member of a message, or of its first entry.
func member(t *testing.T, contentType string, body []byte, name string) string {
	t.Helper()
	if strings.Contains(contentType, "form") {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		return form.Get(name)
	}
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		t.Error(err)
	}
	if entries, ok := m["Entries"].([]any); ok {
		m, _ = entries[0].(map[string]any)
	}
	s, _ := m[name].(string)
	return s
}

// authorization signs what came the way that AWS's SDK does.
func authorization(t *testing.T, r *http.Request, body []byte, keys aws.CredentialsProvider, service string, at time.Time) string {
	t.Helper()
	again, err := http.NewRequestWithContext(t.Context(), r.Method, "https://"+r.Host+r.URL.String(), bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return ""
	}
	for _, k := range []string{"Content-Type", "X-Amz-Target", "User-Agent"} {
		if v := r.Header.Get(k); v != "" {
			again.Header.Set(k, v)
		}
	}
	c, err := keys.Retrieve(t.Context())
	if err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(t.Context(), c, again, hex.EncodeToString(sum[:]), service, "us-east-1", at); err != nil {
		t.Error(err)
	}
	return again.Header.Get("Authorization")
}

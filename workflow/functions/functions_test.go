package functions

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var aCall = steps.Call{Payload: []byte(`{"token":"t"}`), Execution: "e-1", Attempt: 2}

// serve runs a far side until the test ends; goleak wants no connection left.
func serve(t *testing.T, secure bool, h http.HandlerFunc) (*httptest.Server, *http.Client) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	c := NewClient()
	t.Cleanup(func() {
		c.CloseIdleConnections()
		s.Close()
	})
	return s, c
}

// want checks an error's type, what is shown of it, whether another attempt may help, and that no secret is shown.
func want(t *testing.T, name string, err error, kind workflow.ErrorType, message string, again bool) {
	t.Helper()
	var e *workflow.StepError
	if !errors.As(err, &e) {
		t.Errorf("%s: %v is no StepError", name, err)
		return
	}
	if e.Type != kind || e.Message != message || workflow.Retriable(err) != again || strings.Contains(e.Message, "secret") {
		t.Errorf("%s: %s %q, again %v; want %s %q, %v", name, e.Type, e.Message, workflow.Retriable(err), kind, message, again)
	}
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	s, c := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for header, want := range map[string]string{
			"Content-Type": "application/json", ExecutionHeader: "e-1", AttemptHeader: "2",
			// printf '1700000000.{"token":"t"}' | openssl dgst -sha256 -hmac key
			SignatureHeader: "t=1700000000,v1=" + signatureByOpenSSL,
		} {
			if got := r.Header.Get(header); got != want {
				t.Errorf("%s: %q, want %q", header, got, want)
			}
		}
		if string(body) != `{"token":"t"}` || r.Method != http.MethodPost || r.URL.String() != "/x?y=z" {
			t.Errorf("%s %s %s", r.Method, r.URL, body)
		}
	})
	c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	hook := &Webhook{URL: s.URL + "/x?y=z", Secret: []byte("key"), Client: c, Now: func() time.Time { return at }}
	if err := hook.Invoke(t.Context(), aCall); err != nil {
		t.Error(err)
	}
}

const signatureByOpenSSL = "1c8c8b09193d1722c0301c99825660b136d5be5ec775f8b83f2c3844dcade2a5"

func TestWebhookFailures(t *testing.T) {
	t.Parallel()
	s, c := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil { // endless
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}
		w.Header().Set("Location", "/200")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "a secret, and no JSON")
	})
	call := func(path string) error {
		return (&Webhook{URL: s.URL + path, Client: c, Now: time.Now}).Invoke(t.Context(), aCall)
	}
	for _, ok := range []string{"/200", "/202", "/204", "/endless"} {
		if err := call(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for status, again := range map[int]bool{302: false, 307: false, 400: false, 401: false, 404: false, 408: true, 429: true, 500: true, 503: true} {
		want(t, fmt.Sprint(status), call(fmt.Sprintf("/%d", status)), workflow.CustomStepFailed,
			fmt.Sprintf("The function's URL answered with status %d.", status), again)
	}
}

func TestWebhookUnreachable(t *testing.T) {
	t.Parallel()
	const message = "The function's URL could not be reached."
	untrusted, c := serve(t, true, func(http.ResponseWriter, *http.Request) { t.Error("was called") })
	hook := &Webhook{URL: untrusted.URL, Client: c, Now: time.Now}
	want(t, "a certificate that nobody vouches for", hook.Invoke(t.Context(), aCall), workflow.CustomStepFailed, message, true)

	dead := httptest.NewServer(http.NotFoundHandler())
	hook.URL = dead.URL
	dead.Close()
	want(t, "nobody", hook.Invoke(t.Context(), aCall), workflow.CustomStepFailed, message, true)

	stop := make(chan struct{})
	stalled, c := serve(t, false, func(http.ResponseWriter, *http.Request) { <-stop })
	hook = &Webhook{URL: stalled.URL, Client: c, Now: time.Now, Timeout: 10 * time.Millisecond}
	want(t, "no answer", hook.Invoke(t.Context(), aCall), workflow.CustomStepFailed, message, true)
	close(stop)
}

func TestLambda(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:lambda:us-east-1:000000000000:function:f"
	s, _ := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // goleak
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/2015-03-31/functions/"+arn+"/invocations" || string(body) != `{"token":"t"}` {
			t.Errorf("%s %s", r.URL, body)
		}
		fail := func(status int, code string) {
			w.Header().Set("X-Amzn-ErrorType", code)
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]string{"Message": "a secret"})
		}
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=") {
			t.Error("not signed")
		}
		_, id, _ := strings.Cut(strings.SplitN(r.Header.Get("Authorization"), "/", 2)[0], "Credential=")
		switch kind := r.Header.Get("X-Amz-Invocation-Type"); id {
		case "event":
			if kind != "Event" {
				t.Errorf("invocation type %s", kind)
			}
			w.WriteHeader(http.StatusAccepted)
		case "respond":
			if kind != "RequestResponse" {
				t.Errorf("invocation type %s", kind)
			}
		case "endless":
			for range 100 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		case "thrown":
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			_, _ = io.WriteString(w, "a secret")
		case "missing":
			fail(404, "ResourceNotFoundException")
		case "denied":
			fail(403, "AccessDeniedException")
		case "often":
			fail(429, "TooManyRequestsException")
		case "invalid":
			fail(400, "InvalidParameterValueException")
		case "down":
			fail(503, "ServiceUnavailableException")
		case "nonsense":
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "<html>no JSON</html>")
		}
	})
	call := func(id string) error {
		client := NewLambda(LambdaConfig{Endpoint: s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(id, "s", "")})
		return (&Lambda{Client: client, ARN: arn, Respond: id == "respond"}).Invoke(t.Context(), aCall)
	}
	for _, ok := range []string{"event", "respond", "endless"} {
		if err := call(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	want(t, "thrown", call("thrown"), workflow.CustomStepFailed, "The Lambda function ended with an error.", false)
	want(t, "missing", call("missing"), workflow.CustomStepFailed, "The Lambda function does not exist.", false)
	want(t, "denied", call("denied"), workflow.PermissionDenied, "Access to the Lambda function was denied.", false)
	want(t, "often", call("often"), workflow.Throttled, "The Lambda function is called too often.", true)
	want(t, "invalid", call("invalid"), workflow.CustomStepFailed, "The Lambda endpoint answered with status 400.", false)
	want(t, "down", call("down"), workflow.CustomStepFailed, "The Lambda endpoint answered with status 503.", true)
	want(t, "nonsense", call("nonsense"), workflow.CustomStepFailed, "The Lambda endpoint answered with status 500.", true)
	client := NewLambda(LambdaConfig{Endpoint: "http://127.0.0.1:1", Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "s", "")})
	want(t, "nobody", (&Lambda{Client: client, ARN: arn}).Invoke(t.Context(), aCall), workflow.CustomStepFailed,
		"The Lambda endpoint could not be reached.", true)
}

func script(t *testing.T, text string) *Command {
	t.Helper()
	return &Command{Args: []string{"/bin/sh", "-c", text, "name", "argument"}, Dir: t.TempDir()}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	c := script(t, `[ "$1" = argument ] || exit 1
		[ "$(cat)" = '{"token":"t"}' ] || exit 2
		[ "$(/usr/bin/env | /bin/grep -v -e ^PWD= -e ^OLDPWD= -e ^_= -e ^SHLVL= | /usr/bin/sort | /usr/bin/tr '\n' ' ')" = "A=b c TRANSFERD_ATTEMPT=2 " ] || exit 3
		: > here`)
	c.Env = []string{"A=b c"}
	if err := c.Invoke(t.Context(), aCall); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "here")); err != nil {
		t.Error(err)
	}
	// A payload that nobody reads, output that nobody keeps, and a child that keeps the output open for a while.
	c = script(t, `/usr/bin/head -c 10000000 /dev/zero; exit 0`)
	if err := c.Invoke(t.Context(), steps.Call{Payload: make([]byte, 1<<20)}); err != nil {
		t.Error(err)
	}
}

func TestCommandFailures(t *testing.T) {
	t.Parallel()
	fails := func(name, text, message string) {
		t.Helper()
		want(t, name, script(t, text).Invoke(t.Context(), aCall), workflow.CustomStepFailed, message, false)
	}
	fails("status", "echo a secret; exit 7", "The command ended with exit status 7.")
	fails("signal", "kill -TERM $$", "The command was ended by signal 15 (terminated).")
	missing := &Command{Args: []string{"/nowhere/secret"}}
	want(t, "missing", missing.Invoke(t.Context(), aCall), workflow.CustomStepFailed, "The command could not be run.", false)

	loud := script(t, "/usr/bin/head -c 100000 /dev/zero | /usr/bin/tr '\\0' x; exit 1")
	loud.Output = 10
	if err := loud.Invoke(t.Context(), aCall); err == nil || !strings.Contains(err.Error(), `output "xxxxxxxxxx", and 99990 bytes more`) {
		t.Errorf("output: %.200v", err)
	}
}

// TestCommandGroup: what a command has started goes with it when its time is up, and when the daemon stops.
func TestCommandGroup(t *testing.T) {
	t.Parallel()
	const text = `/bin/sleep 1000 & echo $! > child; wait`
	timed := script(t, text)
	timed.Timeout = 200 * time.Millisecond
	want(t, "time", timed.Invoke(t.Context(), aCall), workflow.StepTimeout, "The command took longer than 200ms.", false)
	gone(t, timed)

	stopped := script(t, text)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- stopped.Invoke(ctx, aCall) }()
	poll(t, "the child is there", func() bool { return child(stopped) > 0 })
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a daemon that stops: %v", err)
	}
	gone(t, stopped)
}

func child(c *Command) (pid int) {
	b, err := os.ReadFile(filepath.Join(c.Dir, "child"))
	if err == nil {
		_, _ = fmt.Sscan(string(b), &pid)
	}
	return pid
}

// gone waits until the command's child has ended; one that nobody has buried yet has.
func gone(t *testing.T, c *Command) {
	t.Helper()
	pid := child(c)
	if pid == 0 {
		return // killed before it could say
	}
	poll(t, "the child has ended", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		return err != nil || strings.HasPrefix(rest, "Z")
	})
}

func poll(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestCommandMemory(t *testing.T) {
	t.Parallel()
	if !CanLimitMemory {
		t.Skip("memory cannot be limited on this system")
	}
	const hungry = `sleep 0.2; /usr/bin/head -c 300000000 /dev/zero | /usr/bin/tail -c 290000000 > /dev/null`
	free := script(t, hungry)
	free.Env = []string{"PATH=/usr/bin:/bin"}
	if err := free.Invoke(t.Context(), aCall); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	bounded := script(t, hungry)
	bounded.Env, bounded.Memory = free.Env, 100<<20
	if err := bounded.Invoke(t.Context(), aCall); !errors.As(err, new(*workflow.StepError)) {
		t.Errorf("with a limit: %v", err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &limit); err != nil || limit.Cur == 100<<20 {
		t.Errorf("our own limit: %v %v", limit, err)
	}
}

package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/storage/s3/gateway"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
)

// orphanEnv makes the test binary a parent that spawns a store, says where, and waits to be killed.
const orphanEnv = "TRANSFERD_TEST_ORPHAN_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(orphanEnv)
	if root == "" || os.Getenv("TRANSFERD_TEST_S3_GATEWAY") != "" {
		os.Exit(gatewaytest.Main(m))
	}
	p, err := gatewaytest.Spawn(context.Background(), "127.0.0.1:0", root)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(p.Addr())
	<-p.Done()
}

// answers reports whether something speaks HTTP at addr.
func answers(t *testing.T, addr string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return false
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode == http.StatusForbidden // unsigned
}

func TestAnswersOnAFreePortAndStops(t *testing.T) {
	t.Parallel()
	start := time.Now()
	p := gatewaytest.Start(t)
	t.Logf("ready after %v", time.Since(start))
	if strings.HasSuffix(p.Addr(), ":0") {
		t.Fatalf("address %s has no port", p.Addr())
	}
	if !answers(t, p.Addr()) {
		t.Fatal("it does not answer after Spawn returned")
	}
	start = time.Now()
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %v", time.Since(start))
	if answers(t, p.Addr()) {
		t.Fatal("it answers after Stop")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal("second stop:", err)
	}
}

func TestComesBackAtTheSameAddressAfterKill(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	p := gatewaytest.StartAt(t, "127.0.0.1:0", root)
	addr := p.Addr()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p := gatewaytest.StartAt(t, addr, root); p.Addr() != addr {
		t.Fatalf("came back at %s, want %s", p.Addr(), addr)
	}
}

func TestSaysWhyItDoesNotStart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var stderr bytes.Buffer
	_, err = gateway.Spawn(t.Context(), gateway.SpawnConfig{
		Config: gateway.Config{Root: t.TempDir(), Addr: l.Addr().String(), AccessKey: "a", SecretKey: "s"},
		Env:    []string{"TRANSFERD_TEST_S3_GATEWAY=1"}, Stderr: &stderr,
	})
	if err == nil || !strings.Contains(stderr.String(), "address already in use") {
		t.Fatalf("error %v, stderr %q; want both to tell of the port in use", err, &stderr)
	}
}

func TestKilledParentTakesTheChildWithIt(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.CommandContext(t.Context(), exe)
	parent.Env = append(os.Environ(), orphanEnv+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal("read the address:", err)
	}
	addr := strings.TrimSpace(string(buf[:n]))
	if !answers(t, addr) {
		t.Fatal("the store does not answer while its parent lives")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Fatal("the parent ended by itself")
	}
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for answers(t, addr) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the store lives on after its parent was killed")
		}
	}
}

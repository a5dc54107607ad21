package sftpd_test

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	idleSessions     = 200
	idleSessionsRace = 40 // under the race detector goroutines are counted, not bytes
	// idleGoal is what an idle session may cost: the design's number.
	idleGoal = 64 << 10
	// idleGoroutines is how many goroutines an idle session may have; the race detector does not change that.
	idleGoroutines = 7
	// idleServer tells the test binary that it is the server of TestIdleSessions, in a process of its own.
	idleServer = "TRANSFERD_TEST_IDLE_SERVER"
)

// figures are what a process uses.
type figures struct {
	Addr       string
	Key        []byte
	Goroutines int
	Heap       int // in use after a collection
	Stacks     int
	RSS        int
}

// TestIdleServer is no test: it is the server of TestIdleSessions. It prints its figures for each line that it reads.
func TestIdleServer(t *testing.T) {
	if os.Getenv(idleServer) == "" {
		t.Skip("the server of TestIdleSessions")
	}
	r := newRig(t)
	r.store.Put("home/file", []byte("content"))
	key, err := os.ReadFile(r.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f := measure(t)
		f.Addr, f.Key = r.addr, key
		if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
			t.Fatal(err)
		}
	}
}

func measure(t *testing.T) figures {
	for range 3 { // pools give up what they hold at the second
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var size, resident int
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return figures{Goroutines: runtime.NumGoroutine(), Heap: int(m.HeapInuse), Stacks: int(m.StackInuse), RSS: resident * os.Getpagesize()}
}

// TestIdleSessions counts what sessions cost that do nothing: freshly logged in, after a listing, after an upload, after
// a download. The server is a process of its own.
func TestIdleSessions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kept int // by x/crypto/ssh, which keeps the buffer of the longest packet that it deciphered
		use  func(*sftp.Client) error
	}{
		{"no packet but INIT", 0, func(*sftp.Client) error { return nil }},
		{"after ls", 0, func(c *sftp.Client) error {
			_, err := c.ReadDir(".")
			return err
		}},
		{"after a small download", 0, func(c *sftp.Client) error {
			f, err := c.Open("file")
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(io.Discard, f)
			return err
		}},
		{"after an upload of 1 MiB", 40 << 10, func(c *sftp.Client) error {
			f, err := c.Create("upload")
			if err != nil {
				return err
			}
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
			return f.Close()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sessions := idleSessions
			if raceDetector {
				sessions = idleSessionsRace
			}
			s := startIdleServer(t)
			before := s.ask(t)
			for range sessions {
				s.session(t, before, c.use)
			}
			after := s.ask(t)
			per := func(a, b int) int { return (b - a) / sessions }
			heap, stacks := per(before.Heap, after.Heap), per(before.Stacks, after.Stacks)
			goroutines := per(before.Goroutines, after.Goroutines)
			t.Logf("%d sessions, %s: %d KiB a session in use (heap %d, stacks of %d goroutines %d), %d KiB resident", sessions, c.name,
				(heap+stacks)>>10, heap>>10, goroutines, stacks>>10, per(before.RSS, after.RSS)>>10)
			if goroutines > idleGoroutines {
				t.Errorf("%d goroutines a session", goroutines)
			}
			if heap+stacks > idleGoal+c.kept && !raceDetector {
				t.Errorf("%d bytes a session", heap+stacks)
			}
		})
	}
}

type idleProcess struct {
	in  io.Writer
	out *bufio.Reader
}

func startIdleServer(t *testing.T) *idleProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleServer$") // ends with its input, and removes what it made
	cmd.Env = append(os.Environ(), idleServer+"=yes")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		rest, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("server: %v\n%s", err, rest)
		}
	})
	return &idleProcess{in: in, out: bufio.NewReader(out)}
}

func (p *idleProcess) ask(t *testing.T) figures {
	t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		t.Fatal(err)
	}
	var f figures
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "{") { // and not of package testing
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
}

// session logs in, does something and stays.
func (p *idleProcess) session(t *testing.T, f figures, use func(*sftp.Client) error) {
	t.Helper()
	block, _ := pem.Decode(f.Key)
	key, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", f.Addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := sftp.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := use(c); err != nil {
		t.Fatal(err)
	}
}

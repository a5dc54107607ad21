package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopWithin is how long a child has to end after its pipe was closed: a little more than Run gives to requests.
const stopWithin = 12 * time.Second

// Child is the whole main of the child process: it reads its Config as one line of JSON from stdin, serves, writes the
// bound address as one line to stdout, and ends when stdin ends. The other end of stdin is held by the parent alone and
// the kernel closes it however the parent dies, so no child outlives its parent, not even after kill -9. (Pdeathsig
// would do on Linux only, and fires when the starting thread ends, not the process.)
//
// SIGINT and SIGTERM are ignored: a terminal or a service manager sends them to the whole group, and the store has to
// stay for as long as the parent drains.
func Child(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("s3 gateway: read the config: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("s3 gateway: read the config: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// This goroutine lives as long as the process: nothing but the end of stdin ends it.
	go func() {
		_, err := io.Copy(io.Discard, in)
		cancel(err)
	}()
	cfg.Ready = func(addr string) {
		if _, err := fmt.Fprintln(stdout, addr); err != nil {
			cancel(err)
		}
	}
	return Run(ctx, cfg)
}

// SpawnConfig says which process becomes the child, and what it serves.
type SpawnConfig struct {
	Config
	// Path is the program, the running executable if empty. Args and Env are what make it call Child; Env is added to
	// the environment.
	Path string
	Args []string
	Env  []string
	// Stderr takes what the child complains about; nil drops it.
	Stderr io.Writer
}

// Process is a store that runs as a child.
type Process struct {
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer

	done    chan struct{} // closed when the child has ended
	exitErr error         // set before done is closed

	closeStdin sync.Once
}

// Spawn starts the child and returns when it answers. ctx bounds the start alone; the child lives until Stop or Kill,
// or until this process ends in any way. Whoever spawns has to Stop it.
func Spawn(ctx context.Context, cfg SpawnConfig) (*Process, error) {
	if cfg.Path == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("s3 gateway: find the executable: %w", err)
		}
		cfg.Path = exe
	}
	cmd := exec.Command(cfg.Path, cfg.Args...)
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Stderr = cfg.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("s3 gateway: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("s3 gateway: %w", err), stdin.Close())
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("s3 gateway: start: %w", err)
	}
	p := &Process{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	if err := p.handshake(ctx, cfg.Config, stdin, stdout); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}

// handshake sends the config, waits for the address, and leaves the child watched.
func (p *Process) handshake(ctx context.Context, cfg Config, stdin io.Writer, stdout io.Reader) error {
	out := bufio.NewReader(stdout)
	type line struct {
		text string
		err  error
	}
	first := make(chan line, 1)
	sendErr := sendConfig(stdin, cfg)
	go func() {
		text, err := out.ReadString('\n')
		first <- line{text, err}
		// Wait may only be called when stdout is read to its end; reading on also keeps the child from blocking on it.
		_, copyErr := io.Copy(io.Discard, out)
		p.exitErr = errors.Join(copyErr, p.cmd.Wait())
		close(p.done)
	}()
	if sendErr != nil {
		return sendErr
	}
	select {
	case l := <-first:
		if l.err != nil {
			<-p.done
			return fmt.Errorf("s3 gateway: the child ended before it listened: %w", errors.Join(l.err, p.exitErr))
		}
		p.addr = strings.TrimSpace(l.text)
		return nil
	case <-ctx.Done():
		return fmt.Errorf("s3 gateway: wait for the child: %w", context.Cause(ctx))
	}
}

func sendConfig(stdin io.Writer, cfg Config) error {
	line, err := json.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("s3 gateway: write the config: %w", err)
	}
	if _, err := stdin.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("s3 gateway: write the config: %w", err)
	}
	return nil
}

// Addr is the address it listens on, host:port.
func (p *Process) Addr() string { return p.addr }

// URL is the endpoint for S3 clients.
func (p *Process) URL() string { return "http://" + p.addr }

// Done is closed when the child has ended, wanted or not.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the child ended; call it after Done.
func (p *Process) Err() error { return p.exitErr }

// Stop ends the child: it finishes the requests under way and exits. If it takes longer than it may, or than ctx, it is
// killed. Stop may be called again.
func (p *Process) Stop(ctx context.Context) error {
	p.closePipe()
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	select {
	case <-p.done:
		return p.exitErr
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("s3 gateway: stop: %w", context.Cause(ctx)), p.Kill())
	}
}

// Kill ends the child at once, as a power failure would, and waits for its end.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	p.closePipe()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("s3 gateway: kill: %w", err)
	}
	return nil
}

// closePipe closes our end of the child's stdin. The error says only that the child is gone already.
func (p *Process) closePipe() {
	p.closeStdin.Do(func() { _ = p.stdin.Close() })
}

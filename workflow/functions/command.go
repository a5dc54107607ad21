package functions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// Command runs a program on this machine, with the payload on its standard input. It is synchronous: exit status 0 is
// success, any other failure.
//
// The program gets no environment but Env and TRANSFERD_ATTEMPT, which is more than 1 in a repeat. It leads a process
// group of its own, which is killed with it when its time is up, when the daemon stops, and, on Linux, it itself when
// the daemon dies: a repeat after a crash does not run beside the first. Nothing else is taken from it: it runs as the
// daemon's user.
type Command struct {
	Args []string // the program, an absolute path, and its arguments
	Env  []string // NAME=value
	Dir  string   // where it runs; "" is the root folder
	// Timeout bounds a run, besides the step's own; 0 is the step's alone.
	Timeout time.Duration
	// Memory bounds the address space of each of its processes, in bytes; 0 does not.
	Memory int64
	// Output is how much of what it writes is kept for the log; the rest is dropped. Default 64 KiB.
	Output int
}

var _ steps.Function = (*Command)(nil)

// Invoke runs the program to its end.
func (c *Command) Invoke(ctx context.Context, call steps.Call) error {
	limit := c.Output
	if limit <= 0 {
		limit = maxAnswer
	}
	parent := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	written := &head{limit: limit}
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(slices.Clone(c.Env), "TRANSFERD_ATTEMPT="+strconv.Itoa(call.Attempt))
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin = bytes.NewReader(call.Payload)
	cmd.Stdout, cmd.Stderr = written, written
	cmd.SysProcAttr = attributes()
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = 5 * time.Second // for what it leaves behind with its output open
	err := c.run(cmd)
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case parent.Err() != nil:
		return errors.Join(parent.Err(), written.err())
	case ctx.Err() != nil:
		return &workflow.StepError{Type: workflow.StepTimeout, Message: fmt.Sprintf("The command took longer than %v.", c.Timeout),
			Err: errors.Join(workflow.ErrPermanent, written.err())}
	}
	return failed(ended(err), false, errors.Join(err, written.err()))
}

// run holds its thread from the beginning to the end of the program: the kernel's signal at the parent's death is bound
// to the thread that made the child.
func (c *Command) run(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	if c.Memory > 0 {
		// The program runs already, but what it took in these microseconds is far from any limit.
		if err := limitMemory(cmd.Process.Pid, uint64(c.Memory)); err != nil && !errors.Is(err, syscall.ESRCH) {
			return errors.Join(err, killGroup(cmd.Process.Pid), cmd.Wait())
		}
	}
	return cmd.Wait()
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

// ended says how a program ended.
func ended(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "The command could not be run."
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Sprintf("The command was ended by signal %d (%v).", int(ws.Signal()), ws.Signal())
	}
	return fmt.Sprintf("The command ended with exit status %d.", exit.ExitCode())
}

// head keeps the beginning of what is written to it. os/exec writes to it from one goroutine, for both of the program's
// outputs are the same writer.
type head struct {
	limit   int
	kept    []byte
	dropped int
}

func (h *head) Write(b []byte) (int, error) {
	n := min(len(b), h.limit-len(h.kept))
	h.kept = append(h.kept, b[:n]...)
	h.dropped += len(b) - n
	return len(b), nil
}

// err is what was written, for the log.
func (h *head) err() error { return fmt.Errorf("output %q, and %d bytes more", h.kept, h.dropped) }

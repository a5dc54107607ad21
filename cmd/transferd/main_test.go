package main

import (
	"context"
	"flag"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// mainVariable, set in the environment, makes the test binary the daemon: the tests drive the code they were built
// with, race detector included, in a process of its own that can be killed.
const mainVariable = "TRANSFERD_TEST_MAIN"

// withStdin, as the value of mainVariable, ends the daemon along with its standard input: no daemon outlives its test, even
// when that panics or runs out of time.
const withStdin = "with-stdin"

func TestMain(m *testing.M) {
	child := len(os.Args) > 1 && os.Args[1] == gatewayCommand
	if os.Getenv(mainVariable) != "" || child {
		if os.Getenv(mainVariable) == withStdin && !child {
			go func() {
				_, _ = io.Copy(io.Discard, os.Stdin)
				os.Exit(3)
			}()
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := run(ctx, process{stdout: os.Stdout, stderr: os.Stderr, seams: testSeams()}, os.Args[1:])
		stop()
		os.Exit(code)
	}
	flag.Parse()
	code := m.Run()
	if builtAt != "" {
		code = max(code, exitCode(os.RemoveAll(filepath.Dir(builtAt))))
	}
	os.Exit(code)
}

// testSeams are what the environment asks for: a crash, or a step's failure that comes soon.
func testSeams() seams {
	if proxy := os.Getenv(faultsVariable); proxy != "" {
		return faultSeams(proxy)
	}
	return crashSeams(os.Getenv(crashVariable))
}

func exitCode(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

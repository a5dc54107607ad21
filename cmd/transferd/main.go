// Command transferd is the daemon: AWS Transfer Family that people run themselves.
//
// It is the only package that sees all the rooms. It reads flags into the one Config struct, makes the parts, gives each
// what it asks for through the interfaces that the parts declare, and ends them in order.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// command is one word after `transferd`.
type command struct {
	name    string
	summary string // empty: not shown
	run     func(ctx context.Context, p process, args []string) error
}

// process is what a command gets of the process that it runs in.
type process struct {
	stdout, stderr io.Writer
	seams          seams // where the tests put their faults; empty in the product
}

func commands() []command {
	return []command{
		{"dev", "the whole product on one machine, nothing to install or configure", runDev},
		{"serve", "the daemon, as a configuration file describes it", runServe},
		{"apply", "bring servers, users and workflows to the state that a file describes", runApply},
		{"migrate", "move the state of an embedded database to PostgreSQL", runMigrate},
		{"servers", "show the servers of a running daemon", runServers},
		{"sessions", "show who is logged in", runSessions},
		{"uploads", "show the uploads under way and the latest verdicts", runUploads},
		{"executions", "show the executions of workflows", runExecutions},
		{"execution", "show one execution: its steps, attempts and errors, and its file's verdict", runExecution},
		{"retry", "do an execution that has ended over again", runRetry},
		{"events", "show what is told of files, and tell it again", runEvents},
		{"explain", "say whether a user may do something, and which rule decides", runExplain},
		{"passwd", "give a user of a users file a password", runPasswd},
		{"bans", "show the addresses that are banned because logins failed", runBans},
		{"unban", "lift the ban of an address", runUnban},
		{"doctor", "examine an FTP server as a client sees it, and say what mends it", runDoctor},
		{"healthcheck", "ask a running transferd whether it is ready (exit status 0 or 1)", runHealthcheck},
		{"version", "print the version", runVersion},
		{gatewayCommand, "", runGateway},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, process{stdout: os.Stdout, stderr: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

// errUsage marks an error that the usage text has explained already.
var errUsage = errors.New("usage")

// exitError carries an exit status that is not an error to print.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run carries out a command line and returns the exit status: 0 done, 1 failed, 2 not understood.
func run(ctx context.Context, p process, args []string) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		usage(p.stdout)
		return 0
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, p, args[1:])
		var exit exitError
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.As(err, &exit):
			return int(exit)
		case errors.Is(err, errUsage):
			return 2
		}
		fmt.Fprintf(p.stderr, "transferd %s: %v\n", c.name, err)
		return 1
	}
	fmt.Fprintf(p.stderr, "transferd: unknown command %q\n\n", args[0])
	usage(p.stderr)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "transferd is AWS Transfer Family that you run yourself.\n\nCommands:\n")
	for _, c := range commands() {
		if c.summary != "" {
			fmt.Fprintf(w, "  %-12s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprint(w, "\nExamples:\n  transferd dev                       serve, and print the commands to try\n"+
		"  transferd dev -demo                 show the whole way of an upload, then serve\n"+
		"  transferd dev -data /tmp/t -sftp 127.0.0.1:0 -api 127.0.0.1:0\n\n`transferd COMMAND -h` tells a command's flags.\n")
}

func runVersion(_ context.Context, p process, _ []string) error {
	fmt.Fprintln(p.stdout, "transferd", version())
	return nil
}

// version is the module's version, with the revision it was built from where the build knows it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	parts := []string{info.Main.Version}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			parts = append(parts, s.Value)
		}
	}
	return strings.Join(parts, " ")
}

// newFlags is a flag set that explains itself with an example.
func newFlags(p process, name, about string) *flag.FlagSet {
	fs := flag.NewFlagSet("transferd "+name, flag.ContinueOnError)
	fs.SetOutput(p.stderr)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "%s\n\nFlags:\n", about)
		fs.PrintDefaults()
	}
	return fs
}

// parse refuses what the flags do not know, and words that nobody reads.
func parse(fs *flag.FlagSet, args []string) error {
	_, err := parseWords(fs, args)
	return err
}

// parseWords reads flags and exactly the words that are named, which may stand before, between and behind the flags.
func parseWords(fs *flag.FlagSet, args []string, names ...string) ([]string, error) {
	wrong := func(format string, a ...any) ([]string, error) {
		fmt.Fprintf(fs.Output(), format+"\n", a...)
		fs.Usage()
		return nil, errUsage
	}
	var words []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if fs.NArg() == 0 {
			break
		}
		words, args = append(words, fs.Arg(0)), fs.Args()[1:]
	}
	if len(words) > len(names) {
		return wrong("unexpected argument %q", words[len(names)])
	}
	if len(words) < len(names) {
		return wrong("%s is missing", names[len(words)])
	}
	return words, nil
}

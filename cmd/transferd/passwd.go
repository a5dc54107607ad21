package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/transferd/transferd/server/identity/usersfile"
)

const passwdAbout = `transferd passwd -file USERS USER: give a user of a users file a password, as an Argon2id hash; a user who is not there
is added. A running daemon reads the file again by itself. Comments in the file stay.

The password is asked for at a terminal, twice and unseen; without a terminal it is the first line of standard input.
Exit status 0 if it is done, 1 if not (with -check: if the password is wrong), 2 if the command line is not understood.

Examples:
  transferd passwd -file /etc/transferd/users.yaml anna
  echo "$PASSWORD" | transferd passwd -file users.yaml -role arn:aws:iam::000000000000:role/partners -home /bucket/bert bert
  transferd passwd -file users.yaml -check anna
  transferd passwd -file users.yaml -delete anna`

// passwdFlags are what can be said to `transferd passwd`.
type passwdFlags struct {
	file, role, home string
	check, delete    bool
	user             string
}

func runPasswd(ctx context.Context, p process, args []string) error {
	var f passwdFlags
	fs := newFlags(p, "passwd", passwdAbout)
	fs.StringVar(&f.file, "file", "", "the users `file`, as identity.users_file names it; made if it is missing")
	fs.StringVar(&f.role, "role", "", "the `ARN` of the role of a user who is added; needed unless the file has one for all")
	fs.StringVar(&f.home, "home", "", "the home `directory` of a user who is added, as /bucket/name")
	fs.BoolVar(&f.check, "check", false, "change nothing, say whether the password is right")
	fs.BoolVar(&f.delete, "delete", false, "take the user out of the file")
	words, err := parseWords(fs, args, "USER")
	if err != nil {
		return err
	}
	f.user = words[0]
	complaint := ""
	switch {
	case f.file == "":
		complaint = "-file is missing: name the users file, as identity.users_file of the configuration does"
	case f.check && f.delete:
		complaint = "-check and -delete exclude each other"
	case (f.check || f.delete) && (f.role != "" || f.home != ""):
		complaint = "-role and -home are for users who are added"
	}
	if complaint != "" {
		fmt.Fprintln(p.stderr, "transferd passwd: "+complaint)
		return errUsage
	}
	return f.run(ctx, p)
}

func (f passwdFlags) run(ctx context.Context, p process) error {
	text, err := os.ReadFile(f.file)
	if err != nil && (!errors.Is(err, fs.ErrNotExist) || f.check || f.delete) {
		return err
	}
	editor, err := usersfile.Edit(text)
	if err != nil {
		return fmt.Errorf("%s is not right, mend it first:\n%w", f.file, err)
	}
	done := ""
	switch {
	case f.check:
		return f.judge(ctx, p, editor)
	case f.delete:
		if !editor.Delete(f.user) {
			return fmt.Errorf("%s has no user %s", f.file, f.user)
		}
		done = "is deleted"
	case editor.Has(f.user) && (f.role != "" || f.home != ""):
		return fmt.Errorf("%s has a user %s already: leave -role and -home out, or edit the file", f.file, f.user)
	default:
		if done, err = f.set(ctx, p, editor); err != nil {
			return err
		}
	}
	text, err = editor.Bytes()
	if err != nil {
		return err
	}
	if err := replaceUsers(f.file, text); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "user %s %s\n", f.user, done)
	return nil
}

// set changes the password, or adds the user.
func (f passwdFlags) set(ctx context.Context, p process, editor *usersfile.Editor) (done string, err error) {
	password, err := readPassword(ctx, p.stderr, os.Stdin, true)
	if err != nil {
		return "", err
	}
	if editor.Has(f.user) {
		return "has a new password", editor.SetPassword(f.user, password)
	}
	if err := editor.Add(f.user, password, f.role, f.home); err != nil {
		return "", fmt.Errorf("%s: %w (-role ARN, -home /bucket/name)", f.file, err)
	}
	return "is added", nil
}

// judge says whether a password is the user's.
func (f passwdFlags) judge(ctx context.Context, p process, editor *usersfile.Editor) error {
	password, err := readPassword(ctx, p.stderr, os.Stdin, false)
	if err != nil {
		return err
	}
	right, err := editor.Check(f.user, password)
	if err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	if !right {
		fmt.Fprintln(p.stdout, "the password is wrong")
		return exitError(1)
	}
	fmt.Fprintln(p.stdout, "the password is right")
	return nil
}

// replaceUsers puts a new text in the file's place, at once and with the file's mode and owner. A link stays one.
func replaceUsers(name string, text []byte) error {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	old, err := os.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mode := fs.FileMode(0o600)
	if old != nil {
		mode = old.Mode().Perm()
	}
	fresh, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = fresh.Write(text)
	if err == nil && old != nil {
		err = keepOwner(fresh, old)
	}
	if err = errors.Join(err, fresh.Chmod(mode), fresh.Sync(), fresh.Close()); err == nil {
		err = os.Rename(fresh.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(fresh.Name()))
	}
	return nil
}

// maxPassword is the API's longest (UserPassword of TestIdentityProvider).
const maxPassword = 1024

// readPassword asks at a terminal, or reads the first line of what is none.
func readPassword(ctx context.Context, prompts io.Writer, in *os.File, twice bool) (password string, err error) {
	if !term.IsTerminal(int(in.Fd())) {
		password, err = firstLine(in)
	} else if password, err = askPassword(ctx, prompts, in, "Password: "); err == nil && twice {
		var again string
		if again, err = askPassword(ctx, prompts, in, "Again: "); err == nil && again != password {
			err = errors.New("the two passwords differ: nothing was changed")
		}
	}
	switch {
	case err != nil:
		return "", err
	case password == "":
		return "", errors.New("the password is empty: nobody could log in with it")
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password is longer than %d bytes, which no client may send", maxPassword)
	}
	return password, nil
}

func firstLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, 2*maxPassword)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
}

// askPassword reads a line unseen. The terminal shows again what is typed also when Ctrl-C ends the question.
func askPassword(ctx context.Context, prompts io.Writer, in *os.File, prompt string) (string, error) {
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(prompts, prompt)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1) // a reader that nobody waits for any more ends with the process
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case l := <-read:
		fmt.Fprintln(prompts)
		return string(l.text), l.err
	case <-ctx.Done():
		fmt.Fprintln(prompts)
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

// keepOwner gives a file the owner of another, if that is not its own: a daemon that is not root must be able to read
// what root has written.
func keepOwner(f *os.File, like fs.FileInfo) error {
	want, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if have, ok := info.Sys().(*syscall.Stat_t); ok && have.Uid == want.Uid && have.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}

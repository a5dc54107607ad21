package vfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/memory"
)

// oneBucket is a real store as S3 is one, and nothing else.
type oneBucket struct{ *memory.Store }

func (b oneBucket) Backend(_ context.Context, _, store string) (storage.Backend, error) {
	if store != "bucket" {
		return nil, fs.ErrNotExist
	}
	return b.Store, nil
}

// filled has some files, and directories of files whose names end with a slash.
func filled(t *testing.T, names ...string) oneBucket {
	t.Helper()
	s := oneBucket{memory.New(memory.Config{Misuse: func(what string) { t.Error(what) }})}
	for _, name := range names {
		if dir, is := strings.CutSuffix(name, "/"); is {
			if err := s.Mkdir(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			continue
		}
		up, err := s.Create(t.Context(), name, storage.CreateOptions{ID: name})
		if err == nil {
			_, err = up.WriteAt([]byte("x"), 0)
		}
		if err == nil {
			_, err = up.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func limited(t *testing.T, s storage.Stores, statements string) *vfs.FS {
	t.Helper()
	f, err := vfs.New(vfs.Home{Directory: "/bucket/home", UserName: "anna", SourceIP: "192.0.2.7",
		Policy: `{"Version":"2012-10-17","Statement":[` + statements + `]}`}, s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	listHome = `{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::bucket","Condition":{"StringLike":{"s3:prefix":["home/*"]}}},`
	readHome = `{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/home/*"},`
	allHome  = `{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::bucket","arn:aws:s3:::bucket/home/*"]}`
)

// operations are what a client can do with a name, by what it would show.
func operations(ctx context.Context, f *vfs.FS) map[string]func(name string) error {
	return map[string]func(name string) error{
		"stat":  func(name string) error { _, err := f.Stat(ctx, name); return err },
		"lstat": func(name string) error { _, err := f.Lstat(ctx, name); return err },
		"list": func(name string) (err error) {
			for _, err = range f.ReadDir(ctx, name) {
				continue
			}
			return err
		},
		"get": func(name string) error {
			r, err := f.Open(ctx, name)
			if err != nil {
				return err
			}
			return r.Close()
		},
		"put":    func(name string) error { return put(ctx, f, name, storage.CreateOptions{ID: name}) },
		"append": func(name string) error { return put(ctx, f, name, storage.CreateOptions{ID: name, Modify: true}) },
		"mkdir":  func(name string) error { return f.Mkdir(ctx, name) },
		"delete": func(name string) error { return f.Remove(ctx, name) },
		"rmdir":  func(name string) error { return f.Rmdir(ctx, name) },
		"rename": func(name string) error { return f.Rename(ctx, name, name+"-renamed") },
		"onto":   func(name string) error { return f.Rename(ctx, "/bucket/home/source", name) },
	}
}

func put(ctx context.Context, f *vfs.FS, name string, opt storage.CreateOptions) error {
	up, err := f.Create(ctx, name, opt)
	if err != nil {
		return err
	}
	return up.Abort(ctx)
}

// TestOperationsNeedActions: each operation, with policies that allow all but one thing.
func TestOperationsNeedActions(t *testing.T) {
	t.Parallel()
	const file, dir, none = "/bucket/home/file", "/bucket/home/dir", "/bucket/home/none"
	for _, c := range []struct {
		operation, name string
		needs           []string
	}{
		{"stat", none, []string{"s3:ListBucket"}},
		{"list", dir, []string{"s3:ListBucket"}},
		{"get", file, []string{"s3:GetObject"}},
		{"put", none, []string{"s3:PutObject"}},
		{"put", file, []string{"s3:PutObject"}},
		{"append", file, []string{"s3:GetObject", "s3:PutObject"}},
		{"mkdir", none, []string{"s3:PutObject"}},
		{"delete", file, []string{"s3:DeleteObject"}},
		{"rmdir", dir, []string{"s3:DeleteObject", "s3:ListBucket"}},
		{"rename", file, []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject"}},
		{"rename", dir, []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"}},
	} {
		for _, action := range []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} {
			s := filled(t, "home/file", "home/dir/")
			f := limited(t, s, allHome+`,{"Sid":"Not","Effect":"Deny","Action":"`+action+`","Resource":"*"}`)
			err := operations(t.Context(), f)[c.operation](c.name)
			if denied := errors.Is(err, fs.ErrPermission); denied != slices.Contains(c.needs, action) {
				t.Errorf("%s %s without %s: %v", c.operation, c.name, action, err)
			} else if denied && c.operation != "stat" && !strings.Contains(err.Error(), "denied by Statement[1] (Sid Not)") {
				t.Errorf("the log is not told what decided: %v", err)
			}
		}
	}
}

// TestNothingIsLearnt: what a user may not know, no answer tells: a name that is not there, a file and a directory look
// the same.
func TestNothingIsLearnt(t *testing.T) {
	t.Parallel()
	const deep = "/bucket/home/x/y"
	for what, c := range map[string]struct {
		policy string
		tells  []string // the operations that may tell, as they would on S3
	}{
		"nothing": {``, nil},
		// Who writes and deletes without reading sees that a file was deleted; S3 itself says 204 either way.
		"dropbox":           {`{"Effect":"Allow","Action":["s3:PutObject"],"Resource":"*"}`, nil},
		"dropbox, deleting": {`{"Effect":"Allow","Action":["s3:PutObject","s3:DeleteObject"],"Resource":"*"}`, []string{"delete"}},
		"elsewhere":         {`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/home/z*"}`, nil},
		"reads":             {`{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}`, []string{"get", "stat", "lstat"}},
		"everything":        {allHome, []string{"stat", "lstat", "list", "get", "put", "append", "mkdir", "delete", "rmdir", "rename", "onto"}},
	} {
		answers := map[string]map[string]bool{}
		for _, stands := range []string{"home/x/other", "home/x/y", "home/x/y/", "home/x/y/z"} {
			for operation := range operations(t.Context(), nil) {
				s := filled(t, stands, "home/source")
				err := operations(t.Context(), limited(t, s, c.policy))[operation](deep)
				if answers[operation] == nil {
					answers[operation] = map[string]bool{}
				}
				answers[operation][kind(err)] = true
			}
		}
		for operation, seen := range answers {
			if len(seen) > 1 && !slices.Contains(c.tells, operation) {
				t.Errorf("%s: %s tells what is there: %v", what, operation, seen)
			}
		}
	}
}

// kind is what a client can tell of an error. A rename onto something denies what it needs at the source too.
func kind(err error) string {
	for _, e := range []error{fs.ErrPermission, fs.ErrNotExist, fs.ErrExist, storage.ErrIsDirectory, storage.ErrNotEmpty, fs.ErrInvalid, errors.ErrUnsupported} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return fmt.Sprint(err)
}

// TestGrantedNamesAreNoSecret: a client gets into its home and sees its mappings whatever the policy says.
func TestGrantedNamesAreNoSecret(t *testing.T) {
	t.Parallel()
	s := filled(t, "secret/a", "in/one")
	home := vfs.Home{Type: "LOGICAL", UserName: "anna", Policy: `{"Statement":[]}`, Mappings: []server.HomeDirectoryMapEntry{
		{Entry: "/drop/in", Target: "/bucket/in"}, {Entry: "/one", Target: "/bucket/in/one", Type: "FILE"},
	}}
	f, err := vfs.New(home, s)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/drop", "/drop/in"} {
		if info, err := f.Stat(t.Context(), dir); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if got := names(t, f, "/"); !slices.Equal(got, []string{"drop/"}) {
		t.Errorf("the root shows %v", got) // the mapped file cannot be described
	}
	if _, err := f.Stat(t.Context(), "/one"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("mapped file: %v", err)
	}
	if info, err := limited(t, s, ``).Stat(t.Context(), "/bucket/home"); err != nil || !info.IsDir() {
		t.Errorf("the home directory: %v", err)
	}
}

// TestRenameOfADirectoryTakesNothingAlong: what is denied by its own name is not moved by that of its directory.
func TestRenameOfADirectoryTakesNothingAlong(t *testing.T) {
	t.Parallel()
	for statement, denied := range map[string]bool{
		``: false,
		`,{"Effect":"Deny","Action":"s3:DeleteObject","Resource":"arn:aws:s3:::bucket/home/dir/a/keep"}`:             true,
		`,{"Effect":"Deny","Action":"s3:GetObject","Resource":"*/keep"}`:                                             true,
		`,{"Effect":"Deny","Action":"s3:PutObject","Resource":"arn:aws:s3:::bucket/home/moved/*"}`:                   true,
		`,{"Effect":"Deny","Action":"s3:ListBucket","Resource":"*","Condition":{"StringLike":{"s3:prefix":"*/a/"}}}`: true,
		`,{"Effect":"Deny","Action":"s3:*","Resource":"arn:aws:s3:::bucket/home/other"}`:                             false,
	} {
		statement = strings.ReplaceAll(statement, `"*/keep"`, `"arn:aws:s3:::*/keep"`)
		s := filled(t, "home/dir/b", "home/dir/a/keep")
		f := limited(t, s, allHome+statement)
		err := f.Rename(t.Context(), "/bucket/home/dir", "/bucket/home/moved")
		if denied != errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", statement, err)
		}
		if _, err := s.Stat(t.Context(), "home/dir/a/keep"); denied && err != nil {
			t.Errorf("%s: moved all the same", statement)
		}
	}
}

// TestPolicyKeys: what conditions ask for comes from the session and the request.
func TestPolicyKeys(t *testing.T) {
	t.Parallel()
	s := filled(t, "home/a")
	allow := func(condition string) string {
		return `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":` + condition + `}}`
	}
	for _, c := range []struct {
		condition string
		want      bool
	}{
		{`{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}`, true},
		{`{"IpAddress":{"aws:SourceIp":"198.51.100.0/24"}}`, false},
		{`{"DateLessThan":{"aws:CurrentTime":"2026-05-02T00:00:00Z"}}`, true},
		{`{"DateLessThan":{"aws:CurrentTime":"2026-05-01T00:00:00Z"}}`, false},
		{`{"StringEquals":{"s3:prefix":"home/","s3:delimiter":"/"}}`, true},
		{`{"StringEquals":{"s3:prefix":"${transfer:HomeFolder}/"}}`, true},
	} {
		f, err := vfs.New(vfs.Home{Directory: "/bucket/home/", UserName: "anna", SourceIP: "192.0.2.7", Policy: allow(c.condition),
			Now: func() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }}, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := operations(t.Context(), f)["list"]("/bucket/home"); (err == nil) != c.want {
			t.Errorf("%s: %v", c.condition, err)
		}
	}
}

// TestPolicyOfTheGrant: one that is none is an error of the grant, and a file system has none.
func TestPolicyOfTheGrant(t *testing.T) {
	t.Parallel()
	_, err := vfs.New(vfs.Home{Directory: "/bucket", Policy: `{"Statement":[{}]}`}, newStores())
	if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "Statement[0].Effect") {
		t.Errorf("a policy that is none: %v", err)
	}
	for domain, want := range map[string]error{"EFS": nil, "S3": fs.ErrPermission} {
		f, err := vfs.New(vfs.Home{Domain: domain, Directory: "/bucket", Policy: `{"Statement":[]}`}, newStores())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Stat(t.Context(), "/bucket/shared/one.csv"); !errors.Is(err, want) {
			t.Errorf("%s: %v", domain, err)
		}
	}
}

// TestInspect is not limited: whoever acts for the user must know what it moves.
func TestInspect(t *testing.T) {
	t.Parallel()
	s := filled(t, "home/a")
	if info, err := limited(t, s, ``).Inspect(t.Context(), "/bucket/home/a"); err != nil || info.Size() != 1 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestPolicyAllows: all goes on as without a policy where one allows it.
func TestPolicyAllows(t *testing.T) {
	t.Parallel()
	s := filled(t, "home/a", "home/dir/b")
	f := limited(t, s, listHome+readHome+`{"Effect":"Allow","Action":["s3:PutObject","s3:DeleteObject"],"Resource":"arn:aws:s3:::bucket/home/dir/*"}`)
	var did bytes.Buffer
	for _, do := range []string{"list /bucket/home", "list /bucket/home/dir", "stat /bucket/home/a", "get /bucket/home/a", "stat /bucket/home/dir", "stat /bucket/home/none",
		"get /bucket/home/none", "put /bucket/home/a", "put /bucket/home/dir/c", "append /bucket/home/dir/b", "mkdir /bucket/home/dir/e", "mkdir /bucket/home/f",
		"rename /bucket/home/dir/b", "rename /bucket/home/a", "delete /bucket/home/a", "delete /bucket/home/dir/b-renamed", "rmdir /bucket/home/dir/e", "list /bucket", "stat /bucket", "stat /bucket/else"} {
		operation, name, _ := strings.Cut(do, " ")
		fmt.Fprintf(&did, "%s: %s\n", do, kind(operations(t.Context(), f)[operation](name)))
	}
	want := `list /bucket/home: <nil>
list /bucket/home/dir: <nil>
stat /bucket/home/a: <nil>
get /bucket/home/a: <nil>
stat /bucket/home/dir: <nil>
stat /bucket/home/none: file does not exist
get /bucket/home/none: file does not exist
put /bucket/home/a: permission denied
put /bucket/home/dir/c: <nil>
append /bucket/home/dir/b: <nil>
mkdir /bucket/home/dir/e: <nil>
mkdir /bucket/home/f: permission denied
rename /bucket/home/dir/b: <nil>
rename /bucket/home/a: permission denied
delete /bucket/home/a: permission denied
delete /bucket/home/dir/b-renamed: <nil>
rmdir /bucket/home/dir/e: <nil>
list /bucket: permission denied
stat /bucket: <nil>
stat /bucket/else: permission denied
`
	if did.String() != want {
		t.Errorf("got\n%s", did.String())
	}
}

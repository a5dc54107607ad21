package vfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// stores is a far side that writes down every name that it is asked about. Reads are answered from a MapFS a store.
type stores struct {
	mu    sync.Mutex
	asked []string
	files map[string]fstest.MapFS
	able  bool // it can do everything that some stores can
}

func (s *stores) Backend(_ context.Context, domain, store string) (storage.Backend, error) {
	if _, ok := s.files[store]; !ok {
		return nil, fmt.Errorf("bucket %s of %s: %w", store, domain, fs.ErrNotExist)
	}
	if s.able {
		return able{&backend{s, store}}, nil
	}
	return &backend{s, store}, nil
}

func (s *stores) ask(op, store, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, op+" "+store+":"+name)
}

type backend struct {
	s     *stores
	store string
}

func dotted(name string) string {
	if name == "" {
		return "."
	}
	return name
}

func (b *backend) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	b.s.ask("stat", b.store, name)
	return b.s.files[b.store].Stat(dotted(name))
}

func (b *backend) ReadDir(_ context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		b.s.ask("readdir", b.store, name)
		entries, err := b.s.files[b.store].ReadDir(dotted(name))
		if err != nil {
			yield(nil, err)
			return
		}
		for _, e := range entries {
			info, err := e.Info()
			if !yield(info, err) {
				return
			}
		}
	}
}

func (b *backend) Open(_ context.Context, name string) (storage.Reader, error) {
	b.s.ask("open", b.store, name)
	return nil, fs.ErrNotExist
}

func (b *backend) Create(_ context.Context, name string, _ storage.CreateOptions) (storage.Upload, error) {
	b.s.ask("create", b.store, name)
	return nil, nil
}

func (b *backend) Mkdir(_ context.Context, name string) error {
	b.s.ask("mkdir", b.store, name)
	return nil
}

func (b *backend) Rename(_ context.Context, oldName, newName string) error {
	b.s.ask("rename", b.store, oldName+" "+newName)
	return nil
}

func (b *backend) Remove(_ context.Context, name string) error {
	b.s.ask("remove", b.store, name)
	return nil
}

func newStores() *stores {
	file := &fstest.MapFile{Data: []byte("12345"), Mode: 0o644}
	return &stores{files: map[string]fstest.MapFS{
		"bucket": {"home/anna/a.txt": file, "home/anna/sub/b.txt": file, "shared/in/c.txt": file, "shared/one.csv": file},
		"other":  {"x": file},
	}}
}

func open(t *testing.T, home vfs.Home) (*vfs.FS, *stores) {
	t.Helper()
	st := newStores()
	f, err := vfs.New(home, st)
	if err != nil {
		t.Fatal(err)
	}
	return f, st
}

func pathHome() vfs.Home {
	return vfs.Home{Domain: "S3", Type: "PATH", Directory: "/bucket/home/anna", UserName: "anna"}
}

func logicalHome() vfs.Home {
	return vfs.Home{Domain: "S3", Type: "LOGICAL", UserName: "anna", Mappings: []server.HomeDirectoryMapEntry{
		{Entry: "/mine", Target: "/bucket/home/${Transfer:username}", Type: "DIRECTORY"},
		{Entry: "/in/daily", Target: "/bucket/shared/in"},
		{Entry: "/in/one.csv", Target: "/bucket/shared/one.csv", Type: "FILE"},
		{Entry: "/in/gone.csv", Target: "/bucket/shared/gone.csv", Type: "FILE"},
		{Entry: "/new", Target: "/bucket/not/yet"},
		{Entry: "/lost", Target: "/nobucket/at/all"},
		{Entry: "/other", Target: "/other"},
		{Entry: "/mine/sub/deep", Target: "/other/deep"},
	}}
}

func TestRealPath(t *testing.T) {
	t.Parallel()
	f, _ := open(t, pathHome())
	for in, want := range map[string]string{
		"": "/bucket/home/anna", ".": "/bucket/home/anna", "x/../y": "/bucket/home/anna/y", "..": "/bucket/home",
		"../../../../..": "/", "/": "/", "/..": "/", "//a//b/": "/a/b", "/a/./b": "/a/b", `..\..`: `/bucket/home/anna/..\..`,
	} {
		if got := f.RealPath(in); got != want {
			t.Errorf("RealPath(%q) = %q, want %q", in, got, want)
		}
	}
	l, _ := open(t, logicalHome())
	if got := l.RealPath("x"); got != "/x" {
		t.Errorf("logical landing: %q", got)
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	p, _ := open(t, pathHome())
	l, _ := open(t, logicalHome())
	for _, c := range []struct {
		f    *vfs.FS
		path string
		want string
		err  error
	}{
		{p, "a.txt", "/bucket/home/anna/a.txt", nil},
		{p, "/bucket/elsewhere", "/bucket/elsewhere", nil},
		{p, "/bucket", "/bucket/", nil},
		{p, "/", "", fs.ErrNotExist},
		{p, "/other/x", "", fs.ErrNotExist},
		{p, "/bucketeer/x", "", fs.ErrNotExist},
		{p, "/bucket/a\x00b", "", fs.ErrInvalid},
		{p, "/bucket/\xff", "", fs.ErrInvalid},
		{p, "/bucket/" + strings.Repeat("a", 1024), "/bucket/" + strings.Repeat("a", 1024), nil},
		{p, "/bucket/" + strings.Repeat("a", 1025), "", fs.ErrInvalid},
		{l, "/mine/a.txt", "/bucket/home/anna/a.txt", nil},
		{l, "/mine/../../mine/a", "/bucket/home/anna/a", nil},
		{l, "/in/one.csv", "/bucket/shared/one.csv", nil},
		{l, "/in/one.csv/below", "", fs.ErrNotExist},
		{l, "/in", "", fs.ErrNotExist},
		{l, "/in/daily2", "", fs.ErrNotExist},
		{l, "/file", "", fs.ErrNotExist},
		{l, "/mine/sub/b.txt", "/bucket/home/anna/sub/b.txt", nil},
		{l, "/mine/sub/deep/x", "/other/deep/x", nil},
		{l, "/bucket/home/anna/a.txt", "", fs.ErrNotExist},
	} {
		got, err := c.f.Locate(c.path)
		if !errors.Is(err, c.err) || err == nil && (got.Path() != c.want || got.Domain != "S3") {
			t.Errorf("Locate(%.40q) = %q, %v; want %q, %v", c.path, got.Path(), err, c.want, c.err)
		}
	}
}

func names(t *testing.T, f *vfs.FS, dir string) []string {
	t.Helper()
	var list []string
	for info, err := range f.ReadDir(t.Context(), dir) {
		if err != nil {
			return append(list, "error: "+err.Error())
		}
		name := info.Name()
		if info.IsDir() {
			name += "/"
		}
		list = append(list, name)
	}
	return list
}

func TestReadDir(t *testing.T) {
	t.Parallel()
	p, _ := open(t, pathHome())
	l, _ := open(t, logicalHome())
	empty, _ := open(t, vfs.Home{})
	fresh, _ := open(t, vfs.Home{Directory: "/bucket/home/new"})
	lost, _ := open(t, vfs.Home{Directory: "/nobucket/home"})
	efs, _ := open(t, vfs.Home{Domain: "EFS", Directory: "/bucket/home/new"})
	for _, c := range []struct {
		f    *vfs.FS
		path string
		want []string
	}{
		{p, "/", []string{"bucket/"}},
		{p, "", []string{"a.txt", "sub/"}},
		{p, "/bucket", []string{"home/", "shared/"}},
		{p, "/other", []string{"error: readdir /other: file does not exist"}},
		{l, "/", []string{"in/", "lost/", "mine/", "new/", "other/"}},
		{l, "/in", []string{"daily/", "one.csv"}}, // gone.csv has no target
		{l, "/in/daily", []string{"c.txt"}},
		{l, "/mine", []string{"sub/", "a.txt"}},
		{l, "/mine/sub", []string{"deep/", "b.txt"}},
		{l, "/new", nil},
		{l, "/new/below", []string{"error: readdir /new/below: open not/yet/below: file does not exist"}},
		{empty, "", nil},
		{fresh, "", nil},
		{lost, "", []string{"error: readdir /nobucket/home: bucket nobucket of S3: file does not exist"}},
		{efs, "", []string{"error: readdir /bucket/home/new: open home/new: file does not exist"}},
	} {
		if got := names(t, c.f, c.path); !slices.Equal(got, c.want) {
			t.Errorf("ReadDir(%q) = %q, want %q", c.path, got, c.want)
		}
	}
	for range l.ReadDir(t.Context(), "/") {
		break // the iterator must bear it
	}
}

func TestStat(t *testing.T) {
	t.Parallel()
	p, _ := open(t, pathHome())
	l, _ := open(t, logicalHome())
	for _, c := range []struct {
		f    *vfs.FS
		path string
		name string
		dir  bool
		err  error
	}{
		{p, "/", "/", true, nil},
		{p, "/bucket", "bucket", true, nil},
		{p, "", "anna", true, nil},
		{p, "a.txt", "a.txt", false, nil},
		{p, "missing", "", false, fs.ErrNotExist},
		{p, "/other", "", false, fs.ErrNotExist},
		{l, "/in", "in", true, nil},
		{l, "/mine", "mine", true, nil}, // not anna, which is its name on the far side
		{l, "/new", "new", true, nil},
		{l, "/lost", "", false, fs.ErrNotExist},
		{l, "/in/one.csv", "one.csv", false, nil},
		{l, "/in/gone.csv", "", false, fs.ErrNotExist},
		{l, "/nowhere", "", false, fs.ErrNotExist},
	} {
		info, err := c.f.Stat(t.Context(), c.path)
		if !errors.Is(err, c.err) {
			t.Errorf("Stat(%q): %v, want %v", c.path, err, c.err)
		} else if err == nil && (info.Name() != c.name || info.IsDir() != c.dir || !c.dir && info.Size() != 5) {
			t.Errorf("Stat(%q) = %q dir=%v size=%d", c.path, info.Name(), info.IsDir(), info.Size())
		}
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	create := func(ctx context.Context, f *vfs.FS, p string) error {
		_, err := f.Create(ctx, p, storage.CreateOptions{})
		return err
	}
	rename := func(to string) func(context.Context, *vfs.FS, string) error {
		return func(ctx context.Context, f *vfs.FS, p string) error { return f.Rename(ctx, p, to) }
	}
	mkdir := func(ctx context.Context, f *vfs.FS, p string) error { return f.Mkdir(ctx, p) }
	remove := func(ctx context.Context, f *vfs.FS, p string) error { return f.Remove(ctx, p) }
	rmdir := func(ctx context.Context, f *vfs.FS, p string) error { return f.Rmdir(ctx, p) }
	read := func(ctx context.Context, f *vfs.FS, p string) error {
		_, err := f.Open(ctx, p)
		return err
	}
	for _, c := range []struct {
		what string
		home vfs.Home
		do   func(context.Context, *vfs.FS, string) error
		path string
		want string // the last thing that the store was asked; "" for nothing
		err  error
	}{
		{"put", pathHome(), create, "new", "create bucket:home/anna/new", nil},
		{"put below the root", pathHome(), create, "/file", "", fs.ErrNotExist},
		{"put onto the bucket", pathHome(), create, "/bucket", "", storage.ErrIsDirectory},
		{"put onto a synthetic directory", logicalHome(), create, "/in", "", storage.ErrIsDirectory},
		{"put into a synthetic directory", logicalHome(), create, "/in/file", "", fs.ErrNotExist},
		{"put onto an entry", logicalHome(), create, "/mine", "", storage.ErrIsDirectory},
		{"put onto a file entry", logicalHome(), create, "/in/one.csv", "create bucket:shared/one.csv", nil},
		{"get a synthetic directory", logicalHome(), read, "/in", "", storage.ErrIsDirectory},
		{"get", logicalHome(), read, "/mine/q", "open bucket:home/anna/q", fs.ErrNotExist},
		{"mkdir", logicalHome(), mkdir, "/mine/d", "mkdir bucket:home/anna/d", nil},
		{"mkdir of a synthetic directory", logicalHome(), mkdir, "/in", "", fs.ErrExist},
		{"mkdir in a synthetic directory", logicalHome(), mkdir, "/in/d", "", fs.ErrNotExist},
		{"mkdir of the bucket", pathHome(), mkdir, "/bucket", "", fs.ErrExist},
		{"mkdir of another bucket", pathHome(), mkdir, "/other", "", fs.ErrNotExist},
		{"mkdir of an entry without a target", logicalHome(), mkdir, "/new", "mkdir bucket:not/yet", nil},
		{"rename", pathHome(), rename("b"), "a.txt", "rename bucket:home/anna/a.txt home/anna/b", nil},
		{"rename across stores", logicalHome(), rename("/other/x"), "/mine/a.txt", "", errors.ErrUnsupported},
		{"rename of an entry", logicalHome(), rename("/mine/x"), "/new", "", fs.ErrPermission},
		{"rename onto an entry", logicalHome(), rename("/new"), "/mine/x", "", fs.ErrPermission},
		{"rename out of sight", logicalHome(), rename("/x"), "/mine/x", "", fs.ErrNotExist},
		{"rm", pathHome(), remove, "a.txt", "remove bucket:home/anna/a.txt", nil},
		{"rm of a directory", pathHome(), remove, "sub", "stat bucket:home/anna/sub", storage.ErrIsDirectory},
		{"rm of nothing", pathHome(), remove, "no", "stat bucket:home/anna/no", fs.ErrNotExist},
		{"rm of a file entry", logicalHome(), remove, "/in/one.csv", "remove bucket:shared/one.csv", nil},
		{"rmdir", pathHome(), rmdir, "sub", "remove bucket:home/anna/sub", nil},
		{"rmdir of a file", pathHome(), rmdir, "a.txt", "stat bucket:home/anna/a.txt", fs.ErrInvalid},
		{"rmdir of the bucket", pathHome(), rmdir, "/bucket", "", fs.ErrPermission},
		{"rmdir of the root", logicalHome(), rmdir, "/", "", fs.ErrPermission},
		{"rmdir of an entry", logicalHome(), rmdir, "/mine", "", fs.ErrPermission},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			f, st := open(t, c.home)
			if err := c.do(t.Context(), f, c.path); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			last := ""
			if n := len(st.asked); n > 0 {
				last = st.asked[n-1]
			}
			if last != c.want {
				t.Errorf("asked the store %q, want %q", last, c.want)
			}
		})
	}
}

func TestBadHomes(t *testing.T) {
	t.Parallel()
	mapped := func(entry, target, typ string) vfs.Home {
		return vfs.Home{Type: "LOGICAL", UserName: "anna",
			Mappings: []server.HomeDirectoryMapEntry{{Entry: entry, Target: target, Type: typ}}}
	}
	twice := mapped("/a", "/b/c", "")
	twice.Mappings = append(twice.Mappings, twice.Mappings...)
	slash := mapped("/a", "/b/${transfer:UserName}", "")
	slash.UserName = "../other"
	dots := slash
	dots.UserName = ".."
	for what, home := range map[string]vfs.Home{
		"type": {Type: "VIRTUAL"}, "relative directory": {Directory: "bucket"}, "dots": {Directory: "/bucket/../other"},
		"no mappings": {Type: "LOGICAL"}, "relative entry": mapped("a", "/b", ""), "relative target": mapped("/a", "b", ""),
		"target ends with a slash": mapped("/a", "/b/", ""), "target is the root": mapped("/a", "/", ""),
		"target with dots": mapped("/a", "/b/../c", ""), "mapping type": mapped("/a", "/b", "LINK"),
		"file is a bucket": mapped("/a", "/b", "FILE"), "root is a file": mapped("/", "/b/c", "FILE"), "twice": twice,
		"user with a slash": slash, "user of dots": dots, "NUL": mapped("/a\x00", "/b", ""),
		"long target": mapped("/a", "/b/"+strings.Repeat("c", 1025), ""),
	} {
		if _, err := vfs.New(home, newStores()); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestManyMappings(t *testing.T) {
	t.Parallel()
	home := vfs.Home{Type: "LOGICAL"}
	for i := range 50_000 { // the most that the API takes
		home.Mappings = append(home.Mappings, server.HomeDirectoryMapEntry{
			Entry: fmt.Sprintf("/d%d/e%d", i%100, i), Target: fmt.Sprintf("/bucket/t/%d", i)})
	}
	f, _ := open(t, home)
	loc, err := f.Locate("/d42/e4242/file")
	if err != nil || loc.Path() != "/bucket/t/4242/file" {
		t.Errorf("%q, %v", loc.Path(), err)
	}
	if n := len(names(t, f, "/d42")); n != 500 {
		t.Errorf("%d entries in a synthetic directory, want 500", n)
	}
}

// FuzzNothingOutsideTheGrant tries every operation on any path and looks at what reached the stores.
func FuzzNothingOutsideTheGrant(f *testing.F) {
	for _, seed := range []string{"", "/", "..", "../../other/x", "/bucket/../other/x", "/mine/../../other", "//other//x",
		"/in/one.csv/../../x", "a\x00b", "%2e%2e/%2e%2e/other/x", "..%2f..%2fother", "\xc0\xae\xc0\xae/other", "．．/other", "․․/other", "..\\..\\other",
		"/MINE/../Other", "/mine/a\u0301", "/mine/\u00e1", "/mine/${transfer:UserName}/../../other", "..;/other", "/mine/\u202e/..", "/.../other", "/mine\n/../other", "\xff", "/mine/./././..//mine", `\..\..`, "/bucket/shared", "/bucket/home/anna/x", "/bucket/home/annab", "/bucket/home", "/mine/sub/deep/../../.."} {
		f.Add(seed, seed)
	}
	ownHome := pathHome()
	ownHome.Policy = `{"Statement":[{"Effect":"Allow","Action":"s3:*Object","Resource":"arn:aws:s3:::${transfer:HomeDirectory}/*"},
		{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*","Condition":{"StringLike":{"s3:prefix":"${transfer:HomeFolder}/*"}}}]}`
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, c := range []struct {
			home  vfs.Home
			grant []string
		}{
			{pathHome(), []string{"bucket:"}},
			{vfs.Home{Type: "LOGICAL", UserName: "anna", Mappings: logicalHome().Mappings[:4]},
				[]string{"bucket:home/anna", "bucket:shared/in", "bucket:shared/one.csv", "bucket:shared/gone.csv"}},
			{ownHome, []string{"bucket:home/anna"}}, // a policy keeps requests from the store, not answers from the client
		} {
			view, st := open(t, c.home)
			st.able = true
			ctx := t.Context()
			_, _ = view.Stat(ctx, a)
			for range view.ReadDir(ctx, a) {
				continue
			}
			_, _ = view.Open(ctx, a)
			_, _ = view.Create(ctx, a, storage.CreateOptions{})
			_ = view.Mkdir(ctx, a)
			_ = view.Remove(ctx, a)
			_ = view.Rmdir(ctx, a)
			_ = view.Rename(ctx, a, b)
			_ = view.Replace(ctx, a, b)
			_ = view.Link(ctx, a, b)
			_ = view.Symlink(ctx, a, b)
			_, _ = view.Lstat(ctx, a)
			_, _ = view.ReadLink(ctx, a)
			_ = view.SetAttrs(ctx, a, storage.Attrs{})
			_, _, _ = view.CanModify(ctx, a)
			if p := view.RealPath(a); !strings.HasPrefix(p, "/") || path.Clean(p) != p {
				t.Fatalf("RealPath(%q) = %q", a, p)
			}
			for _, asked := range st.asked {
				checkGranted(t, asked, c.grant)
			}
		}
	})
}

func checkGranted(t *testing.T, asked string, grant []string) {
	t.Helper()
	op, rest, _ := strings.Cut(asked, " ")
	store, names, _ := strings.Cut(rest, ":")
	list := []string{names}
	if op == "rename" || op == "link" { // two names with a space between; a name may hold spaces, so every cut must be granted one way
		list = nil
		for i := range names {
			if names[i] == ' ' && inside(store, names[:i], grant) && inside(store, names[i+1:], grant) {
				return
			}
		}
		t.Fatalf("store was asked %q", asked)
	}
	for _, name := range list {
		// The look at a store's root tells a missing bucket from a missing directory and shows nothing of it.
		if (op == "stat" || op == "linkless") && name == "" {
			continue
		}
		if !inside(store, name, grant) {
			t.Fatalf("store was asked %q", asked)
		}
	}
}

func inside(store, name string, grant []string) bool {
	if name != "" && (path.Clean("/"+name) != "/"+name || strings.IndexByte(name, 0) >= 0) {
		return false
	}
	return slices.ContainsFunc(grant, func(g string) bool {
		at := store + ":" + name
		return at == g || strings.HasSuffix(g, ":") && strings.HasPrefix(at, g) || strings.HasPrefix(at, g+"/")
	})
}

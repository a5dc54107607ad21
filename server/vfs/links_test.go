package vfs_test

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// able is a backend with every ability. Its links say what stands behind "says:" in their names.
type able struct{ *backend }

func (a able) CanModify() bool { return true }

func (a able) WithoutLinks() storage.Backend { a.s.ask("linkless", a.store, ""); return a.backend }

func (a able) Replace(_ context.Context, oldName, newName string) error {
	a.s.ask("rename", a.store, oldName+" "+newName)
	return nil
}

func (a able) SetAttrs(_ context.Context, name string, _ storage.Attrs) error {
	a.s.ask("setattrs", a.store, name)
	return nil
}

func (a able) Lstat(_ context.Context, name string) (fs.FileInfo, error) {
	a.s.ask("lstat", a.store, name)
	return a.s.files[a.store].Stat(dotted(name))
}

func (a able) ReadLink(_ context.Context, name string) (string, error) {
	a.s.ask("readlink", a.store, name)
	_, says, _ := strings.Cut(name, "says:")
	return strings.ReplaceAll(says, "|", "/"), nil
}

// Symlink is asked as a rename is: where the link lies, and what it leads to.
func (a able) Symlink(_ context.Context, target, name string) error {
	a.s.ask("link", a.store, name+" "+strings.TrimPrefix(path.Join("/", path.Dir(name), target), "/"))
	if to := path.Join(path.Dir(name), target); path.IsAbs(target) || to == ".." || strings.HasPrefix(to, "../") {
		a.s.ask("link", "out", target)
	}
	return nil
}

func (a able) Link(_ context.Context, oldName, name string) error {
	a.s.ask("link", a.store, oldName+" "+name)
	return nil
}

func TestLinks(t *testing.T) {
	t.Parallel()
	view, st := open(t, pathHome())
	st.able = true
	ctx := t.Context()
	for _, c := range []struct {
		target, link string
		want         string // what the store is asked; "" if nothing
		err          error
	}{
		{"a.txt", "l", "link bucket:home/anna/l home/anna/a.txt", nil},
		{"/bucket/home/anna/sub/b.txt", "l", "link bucket:home/anna/l home/anna/sub/b.txt", nil},
		{"/bucket/home/anna/a.txt", "sub/l", "link bucket:home/anna/sub/l home/anna/a.txt", nil},
		{"/bucket/shared", "/bucket/l", "link bucket:l shared", nil},
		{"/bucket", "sub/l", "link bucket:home/anna/sub/l ", nil},
		{"../../..", "sub/l", "link bucket:home/anna/sub/l ", nil},
		{"../../../..", "sub/l", "", fs.ErrPermission},
		{"../../../../other/x", "sub/l", "", fs.ErrPermission},
		{"/etc/passwd", "l", "", fs.ErrPermission},
		{"/", "l", "", fs.ErrPermission},
		{"/other/x", "l", "", fs.ErrPermission},
		{"", "l", "", fs.ErrInvalid},
		{"a\x00b", "l", "", fs.ErrInvalid},
		{"x", "/bucket", "", fs.ErrPermission},
		{"x", "/other/l", "", fs.ErrNotExist},
	} {
		st.asked = nil
		err := view.Symlink(ctx, c.target, c.link)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || strings.Join(st.asked, ",") != c.want {
			t.Errorf("%q → %q: %v, store was asked %q", c.link, c.target, err, st.asked)
		}
	}
	for says, ok := range map[string]bool{"a.txt": true, "..|anna": true, "..|..|..|x": false, "|srv|data|home": false, "..|..|..": false, "..|..": true} {
		target, err := view.ReadLink(ctx, "says:"+says)
		if (err == nil) != ok || ok && target != strings.ReplaceAll(says, "|", "/") || !ok && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a link that says %q: %q, %v", says, target, err)
		}
	}
	if err := view.Link(ctx, "a.txt", "hard"); err != nil {
		t.Error(err)
	}
	if err := view.Link(ctx, "/other/x", "hard"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("hard link to another store: %v", err)
	}
}

// To a user of a LOGICAL home there are no links.
func TestLogicalHomeHasNoLinks(t *testing.T) {
	t.Parallel()
	view, st := open(t, logicalHome())
	st.able = true
	ctx := t.Context()
	_, readLink := view.ReadLink(ctx, "/mine/a.txt")
	for _, err := range []error{readLink, view.Symlink(ctx, "a.txt", "/mine/l"), view.Link(ctx, "/mine/a.txt", "/mine/l")} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	if _, err := view.Stat(ctx, "/mine/a.txt"); err != nil {
		t.Error(err)
	}
	if !slices.Contains(st.asked, "linkless bucket:") {
		t.Errorf("the store was asked %q", st.asked)
	}
}

func TestAbilities(t *testing.T) {
	t.Parallel()
	for _, can := range []bool{false, true} {
		view, st := open(t, pathHome())
		st.able = can
		ctx := t.Context()
		err := view.SetAttrs(ctx, "a.txt", storage.Attrs{})
		if can != (err == nil) || !can && !errors.Is(err, errors.ErrUnsupported) || view.HasAttrs(ctx, "a.txt") != can {
			t.Errorf("SetAttrs: %v", err)
		}
		if modify, anywhere, err := view.CanModify(ctx, "a.txt"); modify != can || anywhere != can || err != nil {
			t.Errorf("CanModify: %v, %v, %v", modify, anywhere, err)
		}
		if _, err := view.Create(ctx, "a.txt", storage.CreateOptions{Modify: true}); can != (err == nil) || !can && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Create: %v", err)
		}
		if err := view.Replace(ctx, "a.txt", "b"); err != nil {
			t.Errorf("Replace: %v", err)
		}
		info, err := view.Lstat(ctx, "a.txt")
		if err != nil || info.Name() != "a.txt" {
			t.Errorf("Lstat: %v, %v", info, err)
		}
		if err := view.SetAttrs(ctx, "/bucket", storage.Attrs{}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("SetAttrs of the home bucket: %v", err)
		}
	}
}

// A store that has links and cannot hide them is closed to LOGICAL homes.
func TestStoreThatCannotHideItsLinks(t *testing.T) {
	t.Parallel()
	view, err := vfs.New(vfs.Home{Type: "LOGICAL", Mappings: []server.HomeDirectoryMapEntry{{Entry: "/", Target: "/bucket/home"}}}, linked{newStores()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := view.Stat(t.Context(), "/anna/a.txt"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v", err)
	}
}

type linked struct{ *stores }

func (l linked) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	b, err := l.stores.Backend(ctx, domain, store)
	return struct {
		storage.Backend
		storage.Linker
	}{b, able{b.(*backend)}}, err
}

package vfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// choosy are stores that anybody may be in, but one that takes nobody's identity on.
type choosy struct {
	*stores
	closed string
}

func (c *choosy) As(context.Context, storage.Identity) (storage.Stores, error) { return c, nil }

func (c *choosy) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	if store == c.closed {
		return nil, fmt.Errorf("this file system acts as itself alone: %w", fs.ErrPermission)
	}
	return c.stores.Backend(ctx, domain, store)
}

// TestHomesFileSystems: a login is refused if a file system of the home cannot be used as the user. One that the home
// does not have is nobody's concern, and one that is not there shows no files.
func TestHomesFileSystems(t *testing.T) {
	t.Parallel()
	all := &choosy{&stores{files: map[string]fstest.MapFS{"fs-open": {}, "fs-closed": {}}}, "fs-closed"}
	logical := func(targets ...string) vfs.Home {
		h := vfs.Home{Type: "LOGICAL"}
		for i, to := range targets {
			h.Mappings = append(h.Mappings, server.HomeDirectoryMapEntry{Entry: fmt.Sprintf("/%d", i), Target: to})
		}
		return h
	}
	for name, c := range map[string]struct {
		home vfs.Home
		err  error
	}{
		"another is closed":  {vfs.Home{Directory: "/fs-open/anna"}, nil},
		"its own is closed":  {vfs.Home{Directory: "/fs-closed/anna"}, fs.ErrPermission},
		"its own is missing": {vfs.Home{Directory: "/fs-missing/anna"}, nil},
		"none is closed":     {logical("/fs-open/a", "/fs-open/b", "/fs-missing"), nil},
		"one of two":         {logical("/fs-open", "/fs-closed/a"), fs.ErrPermission},
	} {
		c.home.Domain, c.home.UserName, c.home.PosixProfile = "EFS", "anna", &server.PosixProfile{Uid: 1, Gid: 1}
		view, err := vfs.New(c.home, all)
		if err != nil {
			t.Fatal(err)
		}
		_, err = view.As(t.Context(), "session")
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), "file system fs-closed") {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
}

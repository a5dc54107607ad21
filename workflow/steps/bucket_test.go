package steps_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"sync"
	"time"

	"github.com/transferd/transferd/storage"
)

// bucket is a store whose answers a test can choose: it fails as told, before or after it has done what it was asked.
type bucket struct {
	mu    sync.Mutex
	files map[string]*object
	// fail is asked before and after each operation; what it returns is the answer.
	fail func(op, name string, done bool) error
	// salt makes ETags that say nothing about the bytes, as in an encrypted bucket.
	salt bool
	puts int
}

type object struct {
	storage.Object
	data []byte
	tags map[string]string
}

func newBucket() *bucket { return &bucket{files: map[string]*object{}} }

// do runs one operation between the two questions.
func (b *bucket) do(op, name string, f func() error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(op, name, false); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if b.fail != nil {
		return b.fail(op, name, true)
	}
	return nil
}

func (b *bucket) find(name string) (*object, error) {
	o, ok := b.files[name]
	if !ok {
		return nil, fmt.Errorf("secret-host: %s: %w", name, fs.ErrNotExist)
	}
	return o, nil
}

func (b *bucket) set(name string, data []byte) *object {
	b.puts++
	sum := md5.Sum(data)
	o := &object{data: data, Object: storage.Object{
		Size: int64(len(data)), ETag: hex.EncodeToString(sum[:]), VersionID: fmt.Sprint("v", b.puts), ModTime: time.Now()}}
	if b.salt {
		o.ETag = fmt.Sprint("salted", b.puts)
	}
	b.files[name] = o
	return o
}

func (b *bucket) Stat(_ context.Context, name string) (info fs.FileInfo, err error) {
	err = b.do("stat", name, func() error {
		o, err := b.find(name)
		if err == nil {
			info = fileInfo{path.Base(name), o.Object}
		}
		return err
	})
	return info, err
}

func (b *bucket) Open(_ context.Context, name string) (r storage.Reader, err error) {
	err = b.do("open", name, func() error {
		o, err := b.find(name)
		if err == nil {
			r = reader{o.data}
		}
		return err
	})
	return r, err
}

func (b *bucket) Remove(_ context.Context, name string) error {
	return b.do("remove", name, func() error {
		_, err := b.find(name)
		delete(b.files, name)
		return err
	})
}

func (b *bucket) Tag(_ context.Context, name string, tags map[string]string) error {
	return b.do("tag", name, func() error {
		o, err := b.find(name)
		if err != nil {
			return err
		}
		if o.tags == nil {
			o.tags = map[string]string{}
		}
		maps.Copy(o.tags, tags)
		return nil
	})
}

func (b *bucket) Copy(_ context.Context, src, ifMatch string, to storage.Backend, dst string, overwrite bool) (made storage.Object, err error) {
	target, ok := to.(*bucket)
	if !ok {
		return made, fmt.Errorf("copy to another kind: %w", fs.ErrInvalid)
	}
	err = b.do("copy", src, func() error {
		o, err := b.find(src)
		if err != nil {
			return err
		}
		if ifMatch != "" && ifMatch != o.ETag {
			return fmt.Errorf("secret-host: precondition: %w", fs.ErrNotExist)
		}
		if target != b {
			target.mu.Lock()
			defer target.mu.Unlock()
		}
		if _, err := target.find(dst); err == nil && !overwrite {
			return fmt.Errorf("secret-host: %s: %w", dst, fs.ErrExist)
		}
		made = target.set(dst, o.data).Object
		return nil
	})
	return made, err
}

func (b *bucket) Create(_ context.Context, name string, _ storage.CreateOptions) (storage.Upload, error) {
	return &upload{b: b, name: name}, nil
}

// What no step calls.

func (b *bucket) ReadDir(context.Context, string) iter.Seq2[fs.FileInfo, error] {
	panic("not for steps")
}
func (b *bucket) Mkdir(context.Context, string) error          { panic("not for steps") }
func (b *bucket) Rename(context.Context, string, string) error { panic("not for steps") }

type upload struct {
	b    *bucket
	name string
	data []byte
}

func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	u.data = append(u.data[:off], p...)
	return len(p), nil
}

func (u *upload) Commit(context.Context) (storage.Object, error) {
	u.b.mu.Lock()
	defer u.b.mu.Unlock()
	return u.b.set(u.name, u.data).Object, nil
}

func (u *upload) Abort(context.Context) error { return nil }

type reader struct{ data []byte }

func (r reader) ReadAt(p []byte, off int64) (int, error) { return copy(p, r.data[off:]), nil }
func (r reader) Close() error                            { return nil }

type fileInfo struct {
	name string
	o    storage.Object
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.o.Size }
func (i fileInfo) Mode() fs.FileMode  { return 0o644 }
func (i fileInfo) ModTime() time.Time { return i.o.ModTime }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return i.o }

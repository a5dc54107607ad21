package storagetest

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/transferd/transferd/storage"
)

// longFile is more than a store copies in one piece.
const longFile = 16 << 20

func pieceCopier(t *testing.T, b storage.Backend) storage.PieceCopier {
	t.Helper()
	c, ok := b.(storage.PieceCopier)
	if !ok {
		t.Skip("not a PieceCopier")
	}
	return c
}

// copying is a copy of "src" to "to/dst" whose tokens are kept.
func copying(b storage.Backend, tokens *[]string) storage.PieceCopy {
	return storage.PieceCopy{Src: "src", To: b, Dst: "to/dst", Note: func(_ context.Context, token string) error {
		*tokens = append(*tokens, token)
		return nil
	}}
}

// next is the piece after what was noted.
func next(p storage.PieceCopy, tokens []string) storage.PieceCopy {
	p.Token = tokens[len(tokens)-1]
	return p
}

// copyPieces: each piece goes on where the one before it ended, and the copy shows when it is whole. One that is made is
// found again.
func copyPieces(t *testing.T, b storage.Backend) {
	c := pieceCopier(t, b)
	content := Bytes(41, longFile)
	Write(t, b, "src", content)
	var tokens []string
	p := copying(b, &tokens)
	obj, done, err := c.CopyPiece(t.Context(), p)
	if len(tokens) < 2 {
		t.Fatalf("noted %q, want a token before anything is made and another one after that", tokens)
	}
	pieces := 1
	for ; err == nil && !done; pieces++ {
		wantMissing(t, b, "to/dst")
		obj, done, err = c.CopyPiece(t.Context(), next(p, tokens))
	}
	if err != nil || pieces < 2 || obj.Size != longFile {
		t.Fatalf("%d pieces, then %+v, %v", pieces, obj, err)
	}
	wantContent(t, b, "to/dst", content)
	again, done, err := c.CopyPiece(t.Context(), next(p, tokens))
	if err != nil || !done || again.ETag != obj.ETag || again.Size != longFile {
		t.Errorf("the last piece again: %+v, %v, %v; want %+v", again, done, err, obj)
	}
	if err := c.DropCopy(t.Context(), "to/dst", tokens[len(tokens)-1]); err != nil {
		t.Errorf("drop what is done: %v", err)
	}
	wantContent(t, b, "to/dst", content)

	tokens = nil
	Write(t, b, "src", content[:1000])
	p.Overwrite = true
	if _, done, err = c.CopyPiece(t.Context(), p); err != nil || !done || tokens != nil {
		t.Errorf("a small file: done %v, %v, noted %q", done, err, tokens)
	}
	wantContent(t, b, "to/dst", content[:1000])
}

// copyPiecesRefused: a piece keeps the conditions of Copy, and without its note nothing is made.
func copyPiecesRefused(t *testing.T, b storage.Backend) {
	c, ctx := pieceCopier(t, b), t.Context()
	var tokens []string
	p := copying(b, &tokens)
	_, _, err := c.CopyPiece(ctx, p)
	wantErr(t, "copy a missing file", err, fs.ErrNotExist)
	src := Write(t, b, "src", Bytes(42, longFile))
	stands := Write(t, b, "to/dst", []byte("stands"))
	_, _, err = c.CopyPiece(ctx, p)
	wantErr(t, "copy onto a file", err, fs.ErrExist)
	p.Overwrite, p.IfMatch = true, stands.ETag
	_, _, err = c.CopyPiece(ctx, p)
	wantErr(t, "copy of another file", err, fs.ErrNotExist)
	if tokens != nil {
		t.Errorf("noted %q", tokens)
	}
	p.IfMatch = src.ETag
	refused := errors.New("cannot note")
	p.Note = func(_ context.Context, token string) error {
		if tokens = append(tokens, token); len(tokens) == 2 {
			return refused
		}
		return nil
	}
	for range 2 { // the second finds the remains of the first
		tokens = nil
		_, done, err := c.CopyPiece(ctx, p)
		if done {
			t.Fatal("done without a note")
		}
		wantErr(t, "a piece whose note is refused", err, refused)
		p.Token = tokens[0]
	}
	if err := c.DropCopy(ctx, "to/dst", tokens[0]); err != nil {
		t.Error(err)
	}
	wantContent(t, b, "to/dst", []byte("stands"))
}

// copyPiecesDropped: a copy that was dropped leaves nothing, and can be begun again by whoever does not know.
func copyPiecesDropped(t *testing.T, b storage.Backend) {
	c, ctx := pieceCopier(t, b), t.Context()
	content := Bytes(43, longFile)
	Write(t, b, "src", content)
	var tokens []string
	p := copying(b, &tokens)
	if _, done, err := c.CopyPiece(ctx, p); err != nil || done {
		t.Fatal(done, err)
	}
	for range 2 {
		for _, token := range tokens {
			if err := c.DropCopy(ctx, "to/dst", token); err != nil {
				t.Fatal(err)
			}
		}
		wantMissing(t, b, "to/dst")
	}
	done := false
	for i := 0; !done; i++ {
		var err error
		if _, done, err = c.CopyPiece(ctx, next(p, tokens)); err != nil || i > longFile>>20 {
			t.Fatal(i, err)
		}
	}
	wantContent(t, b, "to/dst", content)
}

// copyPiecesOfAnotherFile: what is put at the source's name while it is copied does not get into the copy.
func copyPiecesOfAnotherFile(t *testing.T, b storage.Backend) {
	c, ctx := pieceCopier(t, b), t.Context()
	Write(t, b, "src", Bytes(44, longFile))
	var tokens []string
	p := copying(b, &tokens)
	if _, done, err := c.CopyPiece(ctx, p); err != nil || done {
		t.Fatal(done, err)
	}
	for _, size := range []int{longFile, 10} {
		Write(t, b, "src", Bytes(45, size))
		_, done, err := c.CopyPiece(ctx, next(p, tokens))
		if done {
			t.Fatal("a copy of two files")
		}
		wantErr(t, "a piece of another file", err, fs.ErrNotExist)
	}
	if err := c.DropCopy(ctx, "to/dst", tokens[len(tokens)-1]); err != nil {
		t.Error(err)
	}
	wantMissing(t, b, "to/dst")
}

// renameLarge: what a store has to copy in parts for a new name keeps its bytes.
func renameLarge(t *testing.T, b storage.Backend) {
	content := Bytes(48, 11<<20)
	Write(t, b, "one", content)
	if err := b.Rename(t.Context(), "one", "two"); err != nil {
		t.Fatal(err)
	}
	last := "two"
	if r, ok := b.(storage.Replacer); ok {
		Write(t, b, "three", []byte("gives way"))
		if err := r.Replace(t.Context(), "two", "three"); err != nil {
			t.Fatal(err)
		}
		last = "three"
	}
	wantContent(t, b, last, content)
	wantList(t, b, "", last)
}

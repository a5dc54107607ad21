package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// File appends events to a file, one JSON object a line. It is opened for each Send, so whoever rotates it needs to tell
// nobody.
type File struct {
	Path  string
	Shape Shape
	// Sync has each Send on the disk before it counts as arrived. Without it a crash of the machine loses lines.
	Sync bool
}

// Send is part of Sink.
func (f *File) Send(_ context.Context, events []Event) (sent int, err error) {
	file, err := os.OpenFile(f.Path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			sent = 0
		}
	}()
	lines, err := broken(file)
	if err != nil {
		return 0, fmt.Errorf("read the last line: %w", err)
	}
	for _, e := range events {
		line, err := f.Shape.encode(e)
		if err != nil {
			return 0, err
		}
		lines = append(append(lines, line...), '\n')
	}
	if _, err := file.Write(lines); err != nil {
		return 0, err
	}
	if f.Sync {
		if err := file.Sync(); err != nil {
			return 0, err
		}
	}
	return len(events), nil
}

// broken is what has to follow a line that a crash or a full disk cut off: that event comes again, on a line of its own.
func broken(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 || !info.Mode().IsRegular() {
		return nil, err
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], info.Size()-1); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if last[0] == '\n' {
		return nil, nil
	}
	return []byte{'\n'}, nil
}

package sftpd

import (
	"slices"
	"strings"
)

// closing is an upload whose CLOSE is on its way to the storage.
type closing struct {
	path  string // as the client wrote it
	ended chan struct{}
}

// begin notes that an upload closes. ended is closed when the answer has gone out.
func (u *uploads) begin(path string) (ended chan struct{}) {
	u.prune()
	ended = make(chan struct{})
	u.closing = append(u.closing, closing{path, ended})
	return ended
}

// prune forgets what has ended.
func (u *uploads) prune() {
	u.closing = slices.DeleteFunc(u.closing, func(c closing) bool {
		select {
		case <-c.ended:
			return true
		default:
			return false
		}
	})
}

// order lets a packet about a name wait for the closing files that it is about, at the name or below it: requests about
// one file are carried out in their order (filexfer-02, 6.1), and sshfs does not wait for the answer to a CLOSE before it
// lists the folder. Everything else of the session goes on beside a CLOSE; what is behind such a packet waits with it.
func (f *front) order(packet []byte) error {
	if len(f.uploads.closing) == 0 {
		return nil
	}
	f.uploads.prune()
	for _, name := range names(packet) {
		for _, c := range f.uploads.closing {
			if about, err := f.about(name, c.path); err != nil || !about {
				continue // what is wrong with a name its own answer says
			}
			if err := f.out.flush(); err != nil {
				return err
			}
			<-c.ended // a CLOSE ends even if the storage takes nothing: the session's end releases it
		}
	}
	return nil
}

// about says whether path is name or below it.
func (f *front) about(name, path string) (bool, error) {
	name, err := f.realPath(name)
	if err != nil {
		return false, err
	}
	path, err = f.realPath(path)
	return path == name || strings.HasPrefix(path, strings.TrimSuffix(name, "/")+"/"), err
}

// names are the names that a packet is about, none if it is about a handle.
func names(packet []byte) []string {
	d := fields{rest: packet[1:]}
	_ = d.uint32() // the id
	switch packet[0] {
	case fxpOpen, fxpOpendir, fxpLstat, fxpStat, fxpSetstat, fxpRemove, fxpRmdir:
		return []string{string(d.bytes())}
	case fxpRename:
		return []string{string(d.bytes()), string(d.bytes())}
	case fxpExtended:
		if _, ok := pathExtensions()[string(d.bytes())]; ok {
			return []string{string(d.bytes()), string(d.bytes())}
		}
	}
	return nil
}

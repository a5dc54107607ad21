package ftpd

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"strings"
	"time"

	ftp "github.com/fclairamb/ftpserverlib"
	"github.com/spf13/afero"

	"github.com/transferd/transferd/storage"
)

// driver is what the library asks about one connection.
type driver struct {
	*connection
	listener net.Listener
}

// GetSettings turns off what AWS does not have, what we do ourselves, and what is no file transfer.
func (d *driver) GetSettings() (*ftp.Settings, error) {
	s := &ftp.Settings{
		Listener:               d.listener,
		ListenAddr:             "transferd",
		Banner:                 "transferd",
		PublicIPResolver:       func(ftp.ClientContext) (string, error) { return d.told, nil },
		IdleTimeout:            -1, // ours: see connection.await
		ConnectionTimeout:      max(1, int(d.ConnectTimeout/time.Second)),
		DisableLISTArgs:        true,
		DisableSite:            true,
		DisableActiveMode:      true,
		DefaultTransferType:    ftp.TransferTypeBinary, // and no other: see connection.representation
		DisableASCIIConversion: true,                   // AWS knows the type image alone; FileZilla sends files without extension as text
		PasvConnectionsCheck:   ftp.IPMatchDisabled,    // ours: see passiveListener
	}
	if !d.PassivePorts.AnyPort {
		s.PassiveTransferPortRange = newPorts(d.PassivePorts)
	}
	return s, nil
}

// ClientConnected is the greeting.
func (d *driver) ClientConnected(ftp.ClientContext) (string, error) {
	if text := d.settings.Server.PreAuthenticationLoginBanner; text != "" {
		return text, nil
	}
	return "Ready.", nil
}

// ClientDisconnected is called once, when the library has done with the connection.
func (d *driver) ClientDisconnected(ftp.ClientContext) { close(d.left) }

// AuthUser is called after pass has found the password right.
func (d *driver) AuthUser(cc ftp.ClientContext, _, _ string) (ftp.ClientDriver, error) {
	if d.session == nil {
		return nil, failure{530, "Login incorrect."}
	}
	cc.SetPath(d.session.RealPath("."))
	return &files{c: d.connection}, nil
}

// PostAuthMessage is the banner after the login.
func (d *driver) PostAuthMessage(ftp.ClientContext, string, error) string {
	if text := d.settings.Server.PostAuthenticationLoginBanner; text != "" {
		return text
	}
	return "Logged in."
}

// GetTLSConfig is never needed: the library does not know of TLS.
func (d *driver) GetTLSConfig() (*tls.Config, error) { return nil, errors.ErrUnsupported }

// WrapPassiveListener takes over what waits for a data connection.
func (d *driver) WrapPassiveListener(ln net.Listener) (net.Listener, error) { return d.listen(ln), nil }

// files is what the library asks about names. Each method guards itself: a panic is a refusal and an entry in the log.
type files struct {
	afero.Fs // nil: what is not below is never called
	c        *connection
}

// do runs one operation.
func (f *files) do(operation string, op func() error) (err error) {
	defer f.c.guard(operation, &err)
	f.c.change(func(s *connectionState) { s.override = nil })
	if err := op(); err != nil {
		return f.c.refuse(err)
	}
	return nil
}

// Stat describes a file or directory.
func (f *files) Stat(name string) (info os.FileInfo, err error) {
	err = f.do("STAT", func() (err error) {
		info, err = f.c.session.Stat(name)
		return err
	})
	return entry{info}, err
}

// ReadDir lists a directory. Names that would break a listing into lines cannot be asked for either.
func (f *files) ReadDir(name string) (list []os.FileInfo, err error) {
	err = f.do("LIST", func() error {
		for info, err := range f.c.session.ReadDir(name) {
			if err != nil {
				return err
			}
			if !strings.ContainsAny(info.Name(), "\r\n") {
				list = append(list, entry{f.follow(name, info)})
			}
		}
		return nil
	})
	return list, err
}

// follow gives what a link leads to, under the link's name: RETR and CWD follow it too. One that leads nowhere is shown as
// it is.
func (f *files) follow(dir string, info fs.FileInfo) fs.FileInfo {
	if info.Mode()&fs.ModeSymlink == 0 {
		return info
	}
	target, err := f.c.session.Stat(path.Join(dir, info.Name()))
	if err != nil {
		return info
	}
	return link{target, info.Name()}
}

// link is a file under the name of a link to it.
type link struct {
	fs.FileInfo
	name string
}

func (l link) Name() string { return l.name }

// Mkdir makes a directory.
func (f *files) Mkdir(name string, _ os.FileMode) error {
	return f.do("MKDIR", func() error { return f.c.session.Mkdir(name) })
}

// Remove deletes a file.
func (f *files) Remove(name string) error {
	return f.do("DELETE", func() error { return f.c.session.Remove(name) })
}

// RemoveDir deletes an empty directory.
func (f *files) RemoveDir(name string) error {
	return f.do("RMDIR", func() error {
		err := f.c.session.Rmdir(name)
		if errors.Is(err, fs.ErrInvalid) {
			if info, failed := f.c.session.Stat(name); failed == nil && !info.IsDir() {
				return failure{550, "Not a directory."}
			}
		}
		return err
	})
}

// Rename moves a file.
func (f *files) Rename(from, to string) error {
	return f.do("RENAME", func() error { return f.c.session.Rename(from, to) })
}

// Chtimes is MFMT. Where the storage has no times of its own it does what SetStatOption says: refuse, or say yes, do
// nothing and log it (API: ProtocolDetails).
func (f *files) Chtimes(name string, _, modified time.Time) error {
	return f.do("SETSTAT", func() error {
		err := f.c.session.SetAttrs(name, storage.Attrs{Mtime: &modified})
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		details := f.c.settings.Server.ProtocolDetails
		if details == nil || details.SetStatOption != "ENABLE_NO_OP" {
			return failure{550, "Times of files cannot be set."}
		}
		f.c.event(f.c.ctx, slog.LevelInfo, "SETSTAT", slog.String("session-id", f.c.session.ID()),
			slog.String("path", f.c.session.BackendPath(name)))
		return nil
	})
}

// Name is the file system's name, which afero wants.
func (f *files) Name() string { return "transferd" }

// entry is a file as listings show it: in UTC, and directories of S3, which have no time, in 1970.
type entry struct{ fs.FileInfo }

// Mode has nothing that clients cannot read in a listing: the library writes Go's letters, of which those for special
// files and bits are not those of ls.
func (e entry) Mode() fs.FileMode { return e.FileInfo.Mode() & (fs.ModeDir | fs.ModePerm) }

// ModTime is never before 1970.
func (e entry) ModTime() time.Time {
	if t := e.FileInfo.ModTime(); t.Unix() > 0 {
		return t.UTC()
	}
	return time.Unix(0, 0).UTC()
}

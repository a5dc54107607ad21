// Package usersfile serves users out of one file, with Argon2id hashes of their passwords and with public keys. It speaks
// the contract that API_GATEWAY identity providers speak, so that it is one more of them and no special case: a server
// whose IdentityProviderDetails.Url is URL has these users.
//
// It is reached inside the process alone, by Transport: there is no port that anybody could guess passwords at. The file is
// read again when it changes; one that cannot be read leaves the users before it. It knows nothing of servers or protocols.
//
// The file is YAML, so JSON too:
//
//	role: arn:aws:iam::123456789012:role/users   # for users that name none
//	users:
//	  - name: anna
//	    password_hash: $argon2id$v=19$m=19456,t=2,p=1$…$…   # transferd passwd makes it
//	    public_keys: [ssh-ed25519 AAAA… anna@home]
//	    home_directory: /bucket/anna
//	  - name: bert
//	    password_hash: …
//	    role: arn:aws:iam::123456789012:role/bert
//	    home_directory_type: LOGICAL
//	    home_directory_mappings: [{entry: /, target: /bucket/bert}]
//	    policy: ""
//	    posix_profile: {uid: 1000, gid: 1000, secondary_gids: [100]}
package usersfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxFile bounds what is read: some 100,000 users.
	maxFile = 64 << 20
	// checkEvery is how often the file is looked at, at most.
	checkEvery = time.Second
)

// Config says which file. Path is required.
type Config struct {
	Path string
	// Parallel is how many passwords are checked at a time: each takes the memory that its hash names, 19 MiB for
	// those of HashPassword. Default: the number of processors.
	Parallel int
	Now      func() time.Time
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil: counted and shown nowhere
}

// File is the users of a file, as an http.Handler that speaks the contract.
type File struct {
	Config
	mux    *http.ServeMux
	slots  chan struct{} // one for each password that is being checked
	checks prometheus.Counter
	stale  prometheus.Gauge
	count  prometheus.Gauge

	mu      sync.Mutex // guards what follows
	users   *users
	read    fs.FileInfo // what the file was when it was last read; nil if it could not be
	failed  error       // what is wrong with it
	checked time.Time
	// complained is what the log says of the file already.
	complained string
}

// Open reads a file. The error names every line and key that is wrong.
func Open(c Config) (*File, error) {
	if c.Parallel <= 0 {
		c.Parallel = runtime.GOMAXPROCS(0)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &File{
		Config: c, mux: http.NewServeMux(), slots: make(chan struct{}, c.Parallel),
		checks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_users_file_password_checks_total", Help: "Passwords that were hashed to compare them, those of unknown users too.",
		}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_users_file_stale", Help: "1 while the users file cannot be read and the users before it are served.",
		}),
		count: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_users_file_users", Help: "Users that are served from the users file.",
		}),
	}
	f.mux.HandleFunc("GET /servers/{server}/users/{user}/config", f.config)
	f.checked = c.Now()
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("users file: %w", err)
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(f.checks, f.stale, f.count)
	}
	return f, nil
}

// load reads the file if it is not what it was. It is looked at before it is read: what changes meanwhile is found the
// next time. A file with errors is not read twice, one that could not be read is.
func (f *File) load() error {
	info, err := os.Stat(f.Path)
	if err != nil {
		f.read = nil
		return err
	}
	if f.read != nil && os.SameFile(info, f.read) && info.ModTime().Equal(f.read.ModTime()) && info.Size() == f.read.Size() {
		return f.failed
	}
	f.read = nil
	b, err := content(f.Path)
	if err != nil {
		return err
	}
	f.read, f.failed = info, nil
	fresh, err := parse(b)
	if err != nil {
		f.failed = fmt.Errorf("%s: %w", f.Path, err)
		return f.failed
	}
	f.users = fresh
	f.count.Set(float64(len(fresh.byName)))
	f.Log.Info("the users file was read", "users", len(fresh.byName))
	return nil
}

func content(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, nil
}

// current are the users of the newest file that could be read. What is wrong with a newer one is logged once.
func (f *File) current() *users {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.Now()
	if since := now.Sub(f.checked); since >= 0 && since < checkEvery {
		return f.users
	}
	f.checked = now
	err := f.load()
	switch {
	case err == nil:
		f.complained = ""
		f.stale.Set(0)
	case err.Error() != f.complained:
		f.complained = err.Error()
		f.stale.Set(1)
		f.Log.Error("the users file cannot be read: the users before it stay", "error", err.Error())
	}
	return f.users
}

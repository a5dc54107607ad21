package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// overrides are the capabilities that let a thread pass the permissions of files, CAP_FS_SET in the kernel. It drops them
// by itself when the file system uid goes from 0 to another one (capabilities(7), "Effect of user ID changes"); for a
// daemon that is not root and has them all the same, they are dropped here.
const overrides = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD

// capSet is a thread's capabilities; all that matter here stand in the first word but those of CAP_MAC_OVERRIDE.
type capSet [2]unix.CapUserData

// self is what the process is, as long as nobody else is acted for.
type self struct {
	uid, gid int
	groups   []uint32
	caps     capSet
	// lower says that the kernel does not drop the overrides by itself.
	lower bool
}

// identity is whom the kernel sees on a thread; nil is the daemon itself.
type identity struct {
	self     *self
	uid, gid int
	groups   []uint32
}

// readSelf reads who the process is. It is called before any thread acts for somebody.
func readSelf() (*self, error) {
	groups, err := os.Getgroups()
	if err != nil {
		return nil, fmt.Errorf("efs: read the groups of this process: %w", err)
	}
	s := &self{uid: os.Geteuid(), gid: os.Getegid(), groups: make([]uint32, len(groups))}
	for i, g := range groups {
		s.groups[i] = uint32(g)
	}
	if s.caps, err = getCaps(); err != nil {
		return nil, err
	}
	return s, nil
}

// CanImpersonate says why this process cannot act for other users; nil if it can.
func CanImpersonate() error {
	s, err := readSelf()
	if err != nil {
		return err
	}
	return s.canImpersonate()
}

// canImpersonate looks at the capabilities and then tries.
func (s *self) canImpersonate() error {
	var missing []string
	for bit, name := range map[uint]string{unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETGID: "CAP_SETGID"} {
		if s.caps[0].Effective&(1<<bit) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("efs: this process (uid %d) lacks %s, which it needs to act with the uid, gid and groups of users: run it as root, or give it the capabilities (systemd: AmbientCapabilities=CAP_SETUID CAP_SETGID): %w",
			s.uid, strings.Join(missing, " and "), fs.ErrPermission)
	}
	const nobody = 65534
	left, err := s.overridesLeft(nobody)
	if err == nil && left {
		s.lower = true
		left, err = s.overridesLeft(nobody)
	}
	if err != nil {
		return fmt.Errorf("efs: this process cannot act for other users: %w", err)
	}
	if left {
		return fmt.Errorf("efs: capabilities that pass the permissions of files cannot be dropped: %w", fs.ErrPermission)
	}
	return nil
}

// overridesLeft acts for a user and looks whether the thread kept what passes permissions.
func (s *self) overridesLeft(uid int) (left bool, err error) {
	probe := &identity{self: s, uid: uid, gid: uid}
	err = probe.do(func() error {
		caps, err := getCaps()
		left = caps[0].Effective&overrides != 0
		return err
	})
	return left, err
}

// do runs f on a thread that the kernel sees as the identity. The thread is this call's alone; one that cannot be made
// the daemon's again ends with the goroutine and is never used for anything else.
func (id *identity) do(f func() error) error {
	if id == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := id.enter()
		if err == nil {
			err = f()
		}
		if id.self.restore(id) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enter gives the thread the identity. The order is that of capabilities: the last step may drop some.
func (id *identity) enter() error {
	if err := setGroups(id.groups); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := setFSID("setfsgid", unix.SetfsgidRetGid, id.gid); err != nil {
		return err
	}
	if id.self.lower && id.uid != 0 {
		lowered := id.self.caps
		lowered[0].Effective &^= overrides
		if err := setCaps(lowered); err != nil {
			return err
		}
	}
	return setFSID("setfsuid", unix.SetfsuidRetUid, id.uid)
}

// restore makes the thread the daemon's again.
func (s *self) restore(id *identity) error {
	if err := setFSID("setfsuid", unix.SetfsuidRetUid, s.uid); err != nil {
		return err
	}
	if s.lower || s.uid != 0 && id.uid == 0 {
		if err := setCaps(s.caps); err != nil {
			return err
		}
	}
	if err := setFSID("setfsgid", unix.SetfsgidRetGid, s.gid); err != nil {
		return err
	}
	return setGroups(s.groups)
}

// setFSID sets one of the file system ids and looks whether it is set: the calls themselves report no errors.
func setFSID(what string, set func(int) (int, error), id int) error {
	if _, err := set(id); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	now, err := set(-1) // no id: changes nothing and tells the current one
	if err != nil || uint32(now) != uint32(id) {
		return fmt.Errorf("%s to %d: it is %d: %w", what, id, now, errors.Join(err, fs.ErrPermission))
	}
	return nil
}

// setGroups is the system call for this thread; syscall.Setgroups is for all threads.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}

func getCaps() (capSet, error) {
	var caps capSet
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return caps, fmt.Errorf("efs: read the capabilities of this thread: %w", err)
	}
	return caps, nil
}

func setCaps(caps capSet) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// HonourQuotas takes CAP_SYS_RESOURCE from the process: with it, bytes that are written to an open file pass the quotas
// of the file's owner (quotactl(2)). It is called once, at the start.
func HonourQuotas() error {
	caps, err := getCaps()
	if err != nil || caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return err
	}
	caps[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	caps[0].Permitted &^= 1 << unix.CAP_SYS_RESOURCE
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps[0])), 0)
	if errno != 0 {
		return fmt.Errorf("efs: drop CAP_SYS_RESOURCE: %w", errno)
	}
	return nil
}

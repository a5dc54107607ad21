// Package efs is a store that is a directory: of a local disk or of a mounted file system such as NFS. It is what a
// server with the domain EFS serves.
//
// The kernel holds the two promises that matter. No name, symbolic link or race leaves the directory: every path is
// resolved by openat2 with RESOLVE_BENEATH. And nobody may do more than their POSIX identity may: whatever is decided by
// permissions runs on a thread that has the user's file system uid, gid and groups and none of the capabilities that
// override permissions.
//
// An upload grows at its name, as on any file system (and as on AWS), unless Config.AtomicNames is set.
//
// It knows nothing of protocols, sessions, servers, workflows or databases.
package efs

import "github.com/transferd/transferd/storage"

// Config describes one file system.
type Config struct {
	// Dir is the directory that is the root of the store. It must exist.
	Dir string
	// Durable makes Commit wait until the file, and the directory entry if it is new, are on the disk. Without it a
	// commit outlives the death of the daemon, not that of the machine.
	Durable bool
	// AtomicNames writes a file beside its name, hidden, and renames it when it is committed: whoever looks sees the
	// old file or the whole new one. The new file is another inode, so hard links to the old one keep the old bytes.
	AtomicNames bool
	// OwnIdentityOnly is for a daemon without the capabilities to act for others: As then accepts the daemon's own uid
	// and gid and nobody else's. Groups that the daemon has and a profile does not name cannot be dropped.
	OwnIdentityOnly bool
}

// The abilities of a Store. Tags are not among them: a file system has none (AWS: "Cannot tag Efs file").
var (
	_ storage.Backend  = (*Store)(nil)
	_ storage.Resumer  = (*Store)(nil)
	_ storage.Copier   = (*Store)(nil)
	_ storage.Modifier = (*Store)(nil)
	_ storage.Replacer = (*Store)(nil)
	_ storage.Attrer   = (*Store)(nil)
	_ storage.Linker   = (*Store)(nil)
)

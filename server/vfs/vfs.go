// Package vfs turns what a client calls a path into a backend and a name: home directories and logical mappings.
//
// It knows nothing of protocols, sessions, workflows or databases. No path leaves what the user was granted.
package vfs

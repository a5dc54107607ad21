// Package session holds the open files of a connected client and gives each upload its verdict. It is the journal's
// customer.
//
// It knows nothing of the wire, of workflows or of SQL: a protocol calls it, it calls vfs and the Journal.
package session

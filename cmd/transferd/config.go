package main

import (
	"io"
	"time"

	"github.com/transferd/transferd/server"
)

// Config is everything that can be set about a daemon. `transferd dev` fills it from its flags.
type Config struct {
	// Data is the folder of the daemon's state: the database, and in dev mode the S3 store, keys and dev.env.
	Data string
	// Realm is the region and account that ARNs carry and that signatures must name.
	Realm server.Realm
	// Keys are the access keys that the control API accepts: id → secret.
	Keys map[string]string
	// API, SFTP and Metrics are the addresses to listen on, host:port; port 0 is any free one. SFTP is where a server
	// that asks for no address of its own gets a port.
	API, SFTP, Metrics string
	// S3 is the object store.
	S3 S3Config
	// Buffers is the memory, in bytes, that all uploads together may use for parts on their way to S3.
	Buffers int64
	// Workers is how many workflow steps run at a time.
	Workers int
	// Drain is how long a stopping server or daemon waits for sessions before it cuts them.
	Drain time.Duration
	// Keepalive is how often a silent SFTP client is asked whether it lives; after three unanswered questions it does not.
	Keepalive time.Duration
	// Log is where the JSON log goes.
	Log io.Writer
}

// S3Config is an S3 endpoint and the credentials to use there.
type S3Config struct {
	Endpoint  string // URL
	Region    string
	AccessKey string
	SecretKey string
	// RetryBudget is how long one request is tried again before the store counts as unavailable.
	RetryBudget time.Duration
	// Unsigned leaves request bodies out of the signature on plain http, which saves hashing them; only sensible on
	// a network that nobody else can touch.
	Unsigned bool
}

package main

import (
	"os"
	"runtime/debug"
)

// memory is how the memory that the configuration grants the daemon is shared out. What is not counted byte by byte fits
// into what is left: about 200 KiB for each of a thousand sessions that upload (goroutines, ciphers, one read buffer and
// a small SSH window), the program itself and the database's cache.
type memory struct {
	buffers int64  // for files' bytes on their way to and from S3: s3.Budget
	windows int    // for what clients send while an upload cannot take it: sftpd.Config.WindowBudget
	limit   int64  // for all that Go's runtime knows of: debug.SetMemoryLimit
	floor   []byte // nothing, which the collector takes for something that lives: see tune
}

// unknown is the memory that Go's runtime does not know of: the program's text, and what SQLite has mapped.
const unknown = 96 << 20

// leastLimit is how little memory the collector is made to keep to. Whoever grants less has that much all the same: a
// collector that runs all the time frees nothing more.
const leastLimit = 320 << 20

func shareMemory(granted int64) memory {
	return memory{buffers: granted / 2, windows: int(granted / 16), limit: max(granted-unknown, leastLimit)}
}

// floorSize makes a collection due after 96 MiB of garbage at the earliest. Each packet of an upload is garbage when it
// was read, and what lives in a daemon that writes to file systems is little: it collected 50 times a GiB, now 10 times,
// which saves an eighth of an upload's CPU for about 100 MiB more of memory.
const floorSize = 24 << 20

// tune sets the collector for a process whose memory is a few large, long-lived buffers: it runs rarely (GC percent 400
// halves the CPU of an upload), with a limit that makes it run often again before memory gets out of hand. The
// floor is never touched, so it takes no memory and does not count into the limit. The environment's GOGC and GOMEMLIMIT win.
func (m *memory) tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
		m.floor = make([]byte, floorSize)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(m.limit + int64(len(m.floor)))
	}
}

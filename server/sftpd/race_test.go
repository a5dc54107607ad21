//go:build race

package sftpd_test

// raceDetector says that memory cannot be judged: the race detector has its own beside ours.
const raceDetector = true

//go:build !linux

package functions

import (
	"errors"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// CanLimitMemory tells whether Command.Memory works here.
const CanLimitMemory = false

func limitMemory(int, uint64) error { return errors.ErrUnsupported }

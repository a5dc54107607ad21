package ftpd

import (
	"net"
	"syscall"
	"time"
	"unsafe"
)

// tcpState is what the kernel knows of a connection.
type tcpState struct {
	known  bool
	unsent int           // bytes that the other side has not acknowledged
	reset  bool          // closed by a reset, also one that hides behind an end of file
	rtt    time.Duration // smoothed
}

// States of TCP as TCP_INFO tells them (linux/tcp_states.h).
const tcpClose = 7

// inspect asks the kernel. The standard library has no call for either question, and x/sys belongs to the room of the
// file systems: two raw system calls are all that is needed.
func inspect(conn net.Conn) (s tcpState) {
	raw := rawConn(conn)
	if raw == nil {
		return s
	}
	err := raw.Control(func(fd uintptr) {
		var queued int32
		// SIOCOUTQ (tcp(7)) counts what is in the send queue: unsent, and sent but not acknowledged.
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&queued))); errno != 0 {
			return
		}
		var info syscall.TCPInfo
		size := uint32(unsafe.Sizeof(info))
		if _, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			return
		}
		s = tcpState{known: true, unsent: int(queued), reset: info.State == tcpClose,
			rtt: time.Duration(info.Rtt) * time.Microsecond}
	})
	if err != nil {
		return tcpState{}
	}
	return s
}

// rawConn finds the descriptor below wrappers that tell what they wrap, as crypto/tls's does.
func rawConn(conn net.Conn) syscall.RawConn {
	for {
		switch c := conn.(type) {
		case syscall.Conn:
			raw, err := c.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

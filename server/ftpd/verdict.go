package ftpd

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/transferd/transferd/server/session"
)

// A client that was killed ends its data connection just as one that has finished. What tells them apart is whether the
// client takes the final reply. The reply goes out at once; the verdict waits for what comes after it, in this order:
//
//   - ABOR before the reply, or a reply that says no: partial
//   - another command after the reply: complete
//   - the control connection ends before the reply, by a reset, or with the reply unacknowledged: partial. Linux sends a
//     reset when a socket is closed, or its process dies, with something unread
//   - it ends by FIN after the reply was acknowledged: complete
//   - it stays up for the grace after the acknowledgement: complete. QUIT that came before the reply is no evidence, so
//     we keep our end open for as long
//   - the reply stays unacknowledged for AckTimeout: partial
//
// Nothing tells that a client which waits for the reply had more to send and closed its data connection too early, or that
// one which sent its next command ahead was killed before it read the reply.
//
// Behind a proxy that ends TCP, acknowledgements and resets are the proxy's, and it may turn the reset of a killed client
// into an orderly end. So there an orderly end within the grace proves nothing, and without another command the upload is
// partial: who reads the reply and goes at once, without QUIT, is taken for one who was killed.

// ending is how a control connection ended.
type ending int

const (
	lives ending = iota
	finished
	broken
)

// evidence is what is known at one moment about an upload that is committed.
type evidence struct {
	aborted, replied, good, written, lost bool
	more                                  bool             // another command came after the reply
	end                                   ending           // of the control connection, by the client
	cut                                   session.Evidence // by us
	tcp                                   tcpState
	blind                                 bool // what tcp tells is about a proxy
	sinceReply, sinceAck                  time.Duration
	grace, patience                       time.Duration
}

// decide is the rule. false: not yet.
func (e evidence) decide() (session.Outcome, session.Evidence, bool) {
	acknowledged := !e.tcp.known || e.tcp.unsent == 0
	switch {
	case e.aborted && !(e.replied && e.good):
		return session.Partial, session.Abort, true
	case e.replied && !e.good:
		return session.Partial, session.Reset, true
	case e.more:
		return session.Complete, session.Closed, true
	case !e.replied && e.cut != "":
		return session.Partial, e.cut, true
	case !e.replied && e.end != lives, e.lost && e.cut == "":
		return session.Partial, session.ControlLost, true
	case e.lost:
		return session.Partial, e.cut, true
	case !e.replied || !e.written:
		return "", "", false
	case e.end == broken, e.tcp.reset, e.end == finished && (!acknowledged || e.blind && e.sinceAck < e.grace):
		return session.Partial, session.ControlLost, true
	case e.end == finished, e.cut != "" && acknowledged, acknowledged && e.sinceAck >= e.grace:
		return session.Complete, session.Closed, true
	case e.cut != "":
		return session.Partial, e.cut, true
	case !acknowledged && e.sinceReply >= e.patience:
		return session.Partial, session.Timeout, true
	}
	return "", "", false
}

// judge waits until an upload's verdict is clear, and settles it.
func (u *upload) judge() {
	c := u.c
	defer func() {
		c.change(func(s *connectionState) { s.judging-- })
		c.drained()
	}()
	outcome, why := u.verdict()
	if outcome == session.Complete && u.unsaid {
		why = session.NoCloseNotify
	}
	if err := u.file.Settle(outcome, why); err != nil {
		c.fault(c.ctx, "CLOSE", err) // the session has logged the rest; recovery ends the upload
	}
}

// pollEvery is how often the kernel is asked about acknowledgements: it tells nobody on its own.
const pollEvery = 10 * time.Millisecond

func (u *upload) verdict() (session.Outcome, session.Evidence) {
	var replied, acknowledged time.Time
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		e, news, ended := u.evidence()
		if e.written && replied.IsZero() {
			replied = time.Now()
		}
		if e.written {
			e.sinceReply = time.Since(replied)
			if acknowledged.IsZero() && e.tcp.unsent == 0 {
				acknowledged = time.Now()
			}
			if !acknowledged.IsZero() {
				e.sinceAck = time.Since(acknowledged)
			}
		}
		if outcome, why, ok := e.decide(); ok {
			return outcome, why
		}
		tick := poll.C
		if !e.written {
			tick = nil // news will come
		}
		select {
		case <-news:
		case <-ended:
		case <-tick:
		}
	}
}

// evidence looks at everything once. ended is closed when the control connection ends, nil if it has.
func (u *upload) evidence() (e evidence, news <-chan struct{}, ended <-chan struct{}) {
	c := u.c
	ended = c.control.ended
	// How it ended is looked at first, the kernel last: so what the kernel says is never older than the rest.
	switch err := c.control.ending(); {
	case err == nil:
	case errors.Is(err, net.ErrClosed): // by us
		ended = nil
	case errors.Is(err, io.EOF):
		e.end, ended = finished, nil
	default:
		e.end, ended = broken, nil
	}
	c.mu.Lock()
	e.aborted, e.replied, e.good, e.written, e.lost = u.aborted, u.replied, u.good, u.written, u.lost
	e.more = u.replied && c.state.lines > u.lines
	e.cut, e.tcp, news = c.state.cut, c.state.last, c.news
	c.mu.Unlock()
	if e.cut == "" {
		e.tcp = inspect(c.control.wire)
	}
	e.blind = c.proxy.IsValid() && !c.ProxyKeepsTCP
	e.grace, e.patience = max(c.Grace, 4*e.tcp.rtt), c.AckTimeout
	return e, news, ended
}

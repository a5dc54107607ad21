package ftpd

import (
	"testing"
	"time"

	"github.com/transferd/transferd/server/session"
)

// The rule for every situation, without sockets.
func TestDecide(t *testing.T) {
	t.Parallel()
	const grace, patience = 300 * time.Millisecond, 30 * time.Second
	acked, unacked := tcpState{known: true}, tcpState{known: true, unsent: 5}
	for _, c := range []struct {
		name string
		e    evidence
		want session.Outcome // "" for not yet
		why  session.Evidence
	}{
		{"no reply yet", evidence{tcp: acked}, "", ""},
		{"reply on its way", evidence{replied: true, good: true, tcp: acked}, "", ""},
		{"reply written, acknowledged just now", evidence{replied: true, good: true, written: true, tcp: acked}, "", ""},
		{"grace over", evidence{replied: true, good: true, written: true, tcp: acked, sinceAck: grace}, session.Complete, session.Closed},
		{"not acknowledged", evidence{replied: true, good: true, written: true, tcp: unacked, sinceReply: patience - 1}, "", ""},
		{"never acknowledged", evidence{replied: true, good: true, written: true, tcp: unacked, sinceReply: patience}, session.Partial, session.Timeout},
		{"next command", evidence{replied: true, good: true, more: true, tcp: unacked}, session.Complete, session.Closed},
		{"next command, then a reset", evidence{replied: true, good: true, written: true, more: true, end: broken}, session.Complete, session.Closed},
		{"FIN before the reply", evidence{end: finished, tcp: acked}, session.Partial, session.ControlLost},
		{"RST before the reply", evidence{end: broken}, session.Partial, session.ControlLost},
		{"FIN while the reply is written", evidence{replied: true, good: true, end: finished, tcp: acked}, "", ""},
		{"FIN after the acknowledgement", evidence{replied: true, good: true, written: true, end: finished, tcp: acked}, session.Complete, session.Closed},
		{"FIN with the reply unacknowledged", evidence{replied: true, good: true, written: true, end: finished, tcp: unacked}, session.Partial, session.ControlLost},
		{"FIN through a proxy at once", evidence{replied: true, good: true, written: true, end: finished, tcp: acked, blind: true}, session.Partial, session.ControlLost},
		{"FIN through a proxy after the grace", evidence{replied: true, good: true, written: true, end: finished, tcp: acked, blind: true, sinceAck: grace}, session.Complete, session.Closed},
		{"next command through a proxy, then FIN", evidence{replied: true, good: true, written: true, end: finished, tcp: acked, blind: true, more: true}, session.Complete, session.Closed},
		{"FIN that hides a reset", evidence{replied: true, good: true, written: true, end: finished, tcp: tcpState{known: true, reset: true}}, session.Partial, session.ControlLost},
		{"RST after the reply", evidence{replied: true, good: true, written: true, end: broken, tcp: acked}, session.Partial, session.ControlLost},
		{"writing failed", evidence{replied: true, good: true, written: true, lost: true}, session.Partial, session.ControlLost},
		{"ABOR before the reply", evidence{aborted: true}, session.Partial, session.Abort},
		{"ABOR answered with 426", evidence{aborted: true, replied: true, written: true}, session.Partial, session.Abort},
		{"reply says no", evidence{replied: true, written: true, more: true}, session.Partial, session.Reset},
		{"stopped before the reply", evidence{cut: session.ServerStop}, session.Partial, session.ServerStop},
		{"stopped with the reply acknowledged", evidence{replied: true, good: true, written: true, cut: session.ServerStop, tcp: acked}, session.Complete, session.Closed},
		{"stopped with the reply unacknowledged", evidence{replied: true, good: true, written: true, cut: session.ServerStop, tcp: unacked}, session.Partial, session.ServerStop},
		{"stopped while the reply was written", evidence{replied: true, good: true, written: true, lost: true, cut: session.ServerStop}, session.Partial, session.ServerStop},
		{"nothing known of TCP", evidence{replied: true, good: true, written: true, sinceAck: grace}, session.Complete, session.Closed},
	} {
		c.e.grace, c.e.patience = grace, patience
		got, why, ok := c.e.decide()
		if got != c.want || why != c.why || ok != (c.want != "") {
			t.Errorf("%s: %q %q %v, want %q %q", c.name, got, why, ok, c.want, c.why)
		}
	}
}

// A range is gone round, so that no free port is missed.
func TestPortsGoRound(t *testing.T) {
	t.Parallel()
	p := newPorts(PortRange{First: 8192, Last: 8200})
	for range 3 {
		seen := map[int]bool{}
		for range 9 {
			exposed, listened, ok := p.FetchNext()
			if !ok || exposed != listened || listened < 8192 || listened > 8200 {
				t.Fatalf("port %d %d %v", exposed, listened, ok)
			}
			seen[listened] = true
		}
		if len(seen) != 9 {
			t.Errorf("%d of 9 ports", len(seen))
		}
	}
}

func TestClientKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verbs []string
		kind  string
	}{
		{[]string{"AUTH SSL", "AUTH TLS"}, "curl"}, {[]string{"AUTH TLS", "USER a", "PASS b", "PBSZ 0"}, "ftplib"},
		{[]string{"FEAT", "CLNT lftp/4.9", "AUTH TLS"}, "lftp"}, {[]string{"AUTH TLS", "USER a", "PASS b", "SYST"}, "filezilla"},
		{[]string{"CLNT \x1b[31mFileZilla"}, "filezilla"}, {[]string{"USER a"}, "other"}, {nil, "other"},
	} {
		var who client
		for _, line := range c.verbs {
			who.saw(parse(line))
		}
		if got := who.kind(); got != c.kind {
			t.Errorf("%q: %s, want %s", c.verbs, got, c.kind)
		}
	}
}

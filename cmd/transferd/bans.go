package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// banView is a row of `transferd bans`.
type banView struct {
	Address  string // an IPv4 address, or a network of 64 bits for IPv6
	Since    time.Time
	Until    time.Time
	Failures int
}

const bansAbout = `transferd bans: the addresses that a running daemon lets nobody in from, because too many logins from there failed.` + localAbout + `

Each daemon has its own bans. How soon an address is banned and for how long stands in the configuration (identity.guard).

Examples:
  transferd bans
  transferd bans --json | jq -r '.[].Address'
  transferd unban 192.0.2.7`

func runBans(ctx context.Context, p process, args []string) error {
	return runLocal(ctx, p, "bans", bansAbout, args, func(bans []banView) view {
		v := view{data: bans, headline: "ADDRESS\tSINCE\tUNTIL\tFAILURES"}
		for _, b := range bans {
			v.rows = append(v.rows, []string{b.Address, b.Since.Format(time.RFC3339), b.Until.Format(time.RFC3339), strconv.Itoa(b.Failures)})
		}
		return v
	})
}

const unbanAbout = `transferd unban ADDRESS: lift the ban of an address, as transferd bans shows it, and forget its failed logins. Exit status 1
if there is none.` + localAbout + `

Examples:
  transferd unban 192.0.2.7
  transferd unban 2001:db8:1:2::/64`

func runUnban(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "unban", unbanAbout)
	at := metricsFlag(fs)
	words, err := parseWords(fs, args, "ADDRESS")
	if err != nil {
		return err
	}
	if _, err := banAddress(words[0]); err != nil {
		return err
	}
	where := strings.TrimSuffix(*at, "/") + "/debug/bans?" + url.Values{"address": {words[0]}}.Encode()
	if _, err := order(ctx, http.MethodDelete, where); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "the ban of %s is lifted\n", words[0])
	return nil
}

// banAddress reads an address as people and `transferd bans` write it.
func banAddress(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return ip, fmt.Errorf("%q is no address: write it as transferd bans shows it, 192.0.2.7 or 2001:db8:1:2::/64", s)
	}
	return ip, nil
}

func (d *daemon) debugBans(w http.ResponseWriter, _ *http.Request) {
	views := []banView{}
	for _, b := range d.guard.Bans() {
		views = append(views, banView(b))
	}
	d.answerJSON(w, views)
}

// debugUnban lifts a ban. It is a DELETE because no page of a browser may send one to somebody else's address unasked
// (Fetch standard, CORS-preflight request).
func (d *daemon) debugUnban(w http.ResponseWriter, r *http.Request) {
	ip, err := banAddress(r.URL.Query().Get("address"))
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case !d.guard.Lift(ip.String()):
		http.Error(w, "there is no ban of "+ip.String()+" here", http.StatusNotFound)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// banned is a listener that closes connections of banned addresses before anybody spends a handshake on them. FTP does so
// by itself, and says why.
type banned struct {
	net.Listener
	is      func(sourceIP string) (time.Time, bool)
	dropped prometheus.Counter
}

// Accept gives the next connection of somebody who is not banned.
func (l banned) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _ := splitPort(conn.RemoteAddr().String())
		if _, is := l.is(host); !is {
			return conn, nil
		}
		l.dropped.Inc()
		_ = conn.Close() // nothing was said to it
	}
}

// keepOut makes a listener close what comes from banned addresses.
func (d *daemon) keepOut(ln net.Listener) net.Listener {
	return banned{Listener: ln, is: d.guard.Banned, dropped: d.dropped}
}

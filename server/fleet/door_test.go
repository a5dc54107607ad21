package fleet_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
)

// sessions is a frontend whose connections live until it is told to stop: each line comes back.
type sessions struct{}

func (sessions) Serve(ctx context.Context, ln net.Listener, _ func() fleet.Settings) error {
	ctx, cancel := context.WithCancel(ctx)
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		open.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintln(conn, lines.Text()); err != nil {
					return
				}
			}
		})
	}
}

// client is a session at a frontend of type sessions.
type client struct {
	net.Conn
	lines *bufio.Scanner
}

func connect(t *testing.T, address string) client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client{conn, bufio.NewScanner(conn)}
}

// alive says whether the session still answers.
func (c client) alive(text string) bool {
	_, err := fmt.Fprintln(c, text)
	return err == nil && c.lines.Scan() && c.lines.Text() == text
}

// door is one that servers have which speak one of its protocols.
func door(name string, front fleet.Frontend, address, ask string, protocols ...string) fleet.Door {
	pool := fleet.Addresses{Host: "127.0.0.1", TagAddress: address, TagAsk: ask}
	return fleet.Door{
		Name: name, Listen: pool.Listen, Frontend: front, TagAddress: address,
		Serves: func(s server.Server) bool {
			return slices.ContainsFunc(s.Protocols, func(p string) bool { return slices.Contains(protocols, p) })
		},
	}
}

func both(sftp, ftp fleet.Frontend) []fleet.Door {
	return []fleet.Door{
		door("SFTP", sftp, fleet.TagSFTPAddress, fleet.TagSFTPAsk, "SFTP"),
		door("FTP", ftp, fleet.TagFTPAddress, fleet.TagFTPAsk, "FTP", "FTPS"),
	}
}

// awaitTag waits until a tag is there, or no longer.
func (c *catalogue) awaitTag(t *testing.T, id server.ID, key string, there bool) string {
	t.Helper()
	var value string
	eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		value = tag(c.servers[id], key)
		return (value != "") == there
	})
	return value
}

// speak changes the protocols of a server, and nothing else.
func (c *catalogue) speak(t *testing.T, id server.ID, protocols ...string) {
	t.Helper()
	if err := c.UpdateServer(t.Context(), id, func(s *server.Server) error { s.Protocols = protocols; return nil }); err != nil {
		t.Fatal(err)
	}
}

// Protocols come and go while a server is ONLINE, and the sessions at its other doors notice nothing.
func TestProtocolsChangeLive(t *testing.T) {
	t.Parallel()
	c := newCatalogue(speaks(starting("s-1"), "SFTP"))
	run(t, fleet.Config{Catalogue: c, Doors: both(sessions{}, sessions{})})
	s := c.await(t, "s-1", server.Online)
	address := tag(s, fleet.TagSFTPAddress)
	if got := tag(s, fleet.TagFTPAddress); got != "" {
		t.Fatalf("listens for FTP at %s", got)
	}
	old := connect(t, address)
	if !old.alive("before") {
		t.Fatal("no session")
	}

	c.speak(t, "s-1", "SFTP", "FTPS")
	ftp := c.awaitTag(t, "s-1", fleet.TagFTPAddress, true)
	transfer := connect(t, ftp)
	if !transfer.alive("FTPS came") || !old.alive("FTPS came") {
		t.Error("a door does not answer after FTPS came")
	}
	c.speak(t, "s-1", "SFTP", "FTP") // the same door
	c.speak(t, "s-1", "FTP")
	c.awaitTag(t, "s-1", fleet.TagSFTPAddress, false)
	eventually(t, func() bool { return refused(address) })
	if old.alive("SFTP went") {
		t.Error("a session outlived its protocol")
	}
	if !transfer.alive("SFTP went") {
		t.Error("the session at the door that stayed is gone")
	}
	if s := c.await(t, "s-1", server.Online); tag(s, fleet.TagFTPAddress) != ftp {
		t.Errorf("FTP moved from %s to %s", ftp, tag(s, fleet.TagFTPAddress))
	}
	c.speak(t, "s-1", "FTP", "SFTP")
	if back := c.awaitTag(t, "s-1", fleet.TagSFTPAddress, true); !connect(t, back).alive("back") || !transfer.alive("back") {
		t.Error("a door does not answer after SFTP came back")
	}
}

func refused(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return true
	}
	_ = conn.Close() // it was a look
	return false
}

// A server with a door that cannot open is START_FAILED as a whole, be it new or up.
func TestOneDoorFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	asks := server.Tag{Key: fleet.TagFTPAsk, Value: taken.Addr().String()}
	c := newCatalogue(speaks(starting("s-1", asks), "SFTP", "FTP"), speaks(starting("s-2", asks), "SFTP"),
		speaks(starting("s-3"), "AS2"))
	_, stop := run(t, fleet.Config{Catalogue: c, Doors: both(sessions{}, sessions{})})
	address := tag(c.await(t, "s-2", server.Online), fleet.TagSFTPAddress)
	session := connect(t, address)
	if !session.alive("before") {
		t.Error("no session")
	}
	c.speak(t, "s-2", "SFTP", "FTP")
	for _, id := range []server.ID{"s-1", "s-2"} {
		s := c.await(t, id, server.StartFailed)
		if why := tag(s, fleet.TagStartError); !strings.HasPrefix(why, "FTP: ") || !strings.Contains(why, "in use") {
			t.Errorf("%s: start error %q", id, why)
		}
	}
	if session.alive("after") {
		t.Error("the door that works was left open")
	}
	eventually(t, func() bool { return refused(address) })
	if s := c.await(t, "s-3", server.StartFailed); tag(s, fleet.TagStartError) != "none of the server's protocols is served" {
		t.Errorf("tags %v", s.Tags)
	}

	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	c.wish(t, "s-2", server.Starting)
	s := c.await(t, "s-2", server.Online)
	if tag(s, fleet.TagFTPAddress) != asks.Value || tag(s, fleet.TagSFTPAddress) != address {
		t.Errorf("came back with tags %v", s.Tags)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A door that dies is opened again; the sessions at the other one go on.
func TestOneDoorDies(t *testing.T) {
	t.Parallel()
	c := newCatalogue(speaks(starting("s-1"), "SFTP", "FTP"))
	front := &frontend{die: 2}
	run(t, fleet.Config{Catalogue: c, Doors: both(sessions{}, front)})
	session := connect(t, tag(c.await(t, "s-1", server.Online), fleet.TagSFTPAddress))
	eventually(t, func() bool { return front.times() == 3 })
	if !session.alive("still") {
		t.Error("the other door's session is gone")
	}
}

// A server is OFFLINE when all its doors have closed; a deleted one leaves none open.
func TestAllDoorsClose(t *testing.T) {
	t.Parallel()
	c := newCatalogue(speaks(starting("s-1"), "SFTP", "FTP"), speaks(starting("s-2"), "SFTP", "FTP"))
	slow := &frontend{stuck: make(chan struct{}), ended: make(chan server.ID, 2)}
	_, stop := run(t, fleet.Config{Catalogue: c, Doors: both(&frontend{}, slow)})
	c.await(t, "s-2", server.Online)
	s := c.await(t, "s-1", server.Online)
	sftp, ftp := tag(s, fleet.TagSFTPAddress), tag(s, fleet.TagFTPAddress)
	c.wish(t, "s-1", server.Stopping)
	c.remove("s-2")
	eventually(t, func() bool { return refused(sftp) && refused(ftp) })
	if s := c.await(t, "s-1", server.Stopping); s.State != server.Stopping {
		t.Error("OFFLINE before its doors have closed")
	}
	close(slow.stuck)
	s = c.await(t, "s-1", server.Offline)
	if tag(s, fleet.TagSFTPAddress) != sftp || tag(s, fleet.TagFTPAddress) != ftp {
		t.Errorf("addresses forgotten: %v", s.Tags)
	}
	for range 2 {
		<-slow.ended
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

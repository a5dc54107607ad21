package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// writers is how many change things at once.
const writers = 16

// each calls do for 0 to n-1, so many at a time.
func each(n, atOnce int, do func(i int)) {
	todo := make(chan int, n)
	for i := range n {
		todo <- i
	}
	close(todo)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for i := range todo {
				do(i)
			}
		})
	}
	all.Wait()
}

// members are texts of a server that a writer each owns.
func members(s *server.Server) []*string {
	return []*string{
		&s.Arn, &s.Certificate, &s.Domain, &s.EndpointType, &s.IdentityProviderType, &s.LoggingRole,
		&s.PostAuthenticationLoginBanner, &s.PreAuthenticationLoginBanner, &s.SecurityPolicyName, &s.IpAddressType,
		&s.ProtocolDetails.PassiveIp, &s.ProtocolDetails.SetStatOption, &s.ProtocolDetails.TlsSessionResumptionMode,
		&s.EndpointDetails.VpcId, &s.EndpointDetails.VpcEndpointId, &s.S3StorageOptions.DirectoryListingOptimization,
	}
}

// Sixteen writers change one server at once: each appends its own tags, sets its own member, and now and then gives the
// server a host key, which changes the server's document too. Nothing of anybody is lost.
func TestConcurrentWritersLoseNothing(t *testing.T) { both(t, testConcurrentWritersLoseNothing) }

func testConcurrentWritersLoseNothing(t *testing.T) {
	const rounds = 10
	d, ctx := open(t, Config{}), t.Context()
	s := server.Server{ServerId: "s-1", ProtocolDetails: &server.ProtocolDetails{}, EndpointDetails: &server.EndpointDetails{},
		S3StorageOptions: &server.S3StorageOptions{}}
	must(t, d.CreateServer(ctx, s, []hostkeys.Key{keyOf("first", "ssh-rsa", 99)}))
	if n := len(members(&s)); n != writers {
		t.Fatalf("%d members for %d writers", n, writers)
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for round := range rounds {
				err := d.UpdateServer(ctx, "s-1", func(s *server.Server) error {
					s.Tags = append(s.Tags, server.Tag{Key: fmt.Sprintf("%02d-%02d", w, round)})
					*members(s)[w] = fmt.Sprint(round)
					return nil
				})
				if round%5 == 0 {
					err = errors.Join(err, d.AddHostKey(ctx, "s-1", keyOf(fmt.Sprint(w, "-", round), "ssh-ed25519", w)))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()

	got := value[server.Server](t)(d.Server(ctx, "s-1"))
	tags := map[string]bool{}
	last := make([]int, writers) // of each writer, in the order in which its tags stand
	for _, tag := range got.Tags {
		tags[tag.Key] = true
		var w, round int
		if _, err := fmt.Sscanf(tag.Key, "%02d-%02d", &w, &round); err != nil || round < last[w] {
			t.Errorf("tag %s after round %d: %v", tag.Key, last[w], err)
		}
		last[w] = round
	}
	if len(tags) != writers*rounds || len(got.Tags) != len(tags) {
		t.Errorf("%d tags, %d of them different, want %d", len(got.Tags), len(tags), writers*rounds)
	}
	for w, member := range members(&got) {
		if *member != fmt.Sprint(rounds-1) {
			t.Errorf("member of writer %d is %q", w, *member)
		}
	}
	keys := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1"))
	if want := 1 + writers*rounds/5; len(keys) != want || got.HostKeyFingerprint != shownFingerprint(keys) {
		t.Errorf("%d keys, want %d; server shows %s", len(keys), want, got.HostKeyFingerprint)
	}
	var rev int
	must(t, d.reader().QueryRow(ctx, `SELECT rev FROM servers`).Scan(&rev))
	if want := 1 + writers*rounds + writers*rounds/5; rev != want {
		t.Errorf("revision %d after %d changes", rev, want-1)
	}
}

// Two writers that both delete all keys but their own never leave a server without one.
func TestConcurrentDeletesLeaveAKey(t *testing.T) { both(t, testConcurrentDeletesLeaveAKey) }

func testConcurrentDeletesLeaveAKey(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	var keys []hostkeys.Key
	for i := range writers {
		keys = append(keys, keyOf(fmt.Sprint(i), "ssh-rsa", i))
	}
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, keys))
	refused := make(chan error, writers)
	each(writers, writers, func(i int) {
		if err := d.DeleteHostKey(ctx, "s-1", keys[i].HostKeyId); err != nil {
			refused <- err
		}
	})
	close(refused)
	var last *server.LastKeyError
	if err := <-refused; !errors.As(err, &last) {
		t.Errorf("refused: %v", err)
	}
	if err, more := <-refused; more {
		t.Errorf("refused too: %v", err)
	}
	left := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1"))
	if len(left) != 1 || left[0].HostKeyId != last.HostKey || shown(t, d, "s-1") != left[0].Fingerprint {
		t.Errorf("left %+v, refused %+v", left, last)
	}
}

// A change that rests on a revision which is not there any more is refused, not written. One connection writes here, so
// the other writer is played by the change itself.
func TestRevisionGuardsTheDocument(t *testing.T) { both(t, testRevisionGuardsTheDocument) }

func testRevisionGuardsTheDocument(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	err := d.tx(ctx, "test", func(ctx context.Context, tx Tx) error {
		_, err := revise(ctx, tx, serverRow("s-1"), noServer("s-1"), func(s *server.Server) error {
			s.LoggingRole = "mine"
			_, err := tx.Exec(ctx, `UPDATE servers SET rev = rev + 1, doc = '{"ServerId":"s-1","LoggingRole":"theirs"}'`)
			return err
		})
		if !errors.Is(err, errConflict) {
			t.Errorf("passed over another's change: %v", err)
		}
		return nil // what the other one wrote is committed
	})
	must(t, err)
	if s := value[server.Server](t)(d.Server(ctx, "s-1")); s.LoggingRole != "theirs" {
		t.Errorf("role %q", s.LoggingRole)
	}
}

// timings are what calls took.
type timings struct {
	mu   sync.Mutex // guards took
	took []time.Duration
}

func (l *timings) time(call func() error) error {
	began := time.Now()
	err := call()
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	return err
}

func (l *timings) String() string {
	slices.Sort(l.took)
	at := func(percent int) time.Duration { return l.took[(len(l.took)-1)*percent/100].Round(time.Microsecond) }
	return fmt.Sprintf("p50 %s, p99 %s of %d", at(50), at(99), len(l.took))
}

// As many users as AWS allows on a server are made, listed by pages while others come and go between them, read, and
// deleted. Who stays is in every list exactly once.
func TestManyUsers(t *testing.T) { both(t, testManyUsers) }

func testManyUsers(t *testing.T) {
	many := manyUsers
	if strings.HasSuffix(t.Name(), onPostgres) {
		many = min(many, 1000) // the same rows, and a busier machine
	}
	d, ctx := open(t, Config{Limits: server.Limits{UsersPerServer: 2 * many}}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, nil))
	name := func(i int) string { return fmt.Sprintf("stays-%05d", i) }
	create := func(name string) error {
		return d.CreateUser(ctx, "s-1", server.User{UserName: name, Role: "role", HomeDirectory: "/bucket/" + name,
			SshPublicKeys: []server.SshPublicKey{{SshPublicKeyId: "key", SshPublicKeyBody: strings.Repeat("k", 400)}}})
	}
	did := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	var creates, alone, reads, servers timings
	each(many, writers, func(i int) { did(creates.time(func() error { return create(name(i)) })) })

	stop := make(chan struct{})
	var churn sync.WaitGroup
	var churned atomic.Int32 // guests that came
	for w := range 4 {
		churn.Go(func() {
			var guests []string // the oldest first
			for i := 0; ; i++ {
				select {
				case <-stop:
					each(len(guests), 1, func(i int) { did(d.DeleteUser(ctx, "s-1", guests[i])) })
					return
				default:
				}
				guests = append(guests, fmt.Sprintf("%s-%d-%d", name(rand.IntN(many)), w, i))
				did(create(guests[len(guests)-1]))
				if len(guests) > 50 {
					did(d.DeleteUser(ctx, "s-1", guests[0]))
					guests = guests[1:]
				}
				churned.Add(1)
			}
		})
	}
	lists, guests := 0, 0
	for ; lists < 3 || guests == 0 || int(churned.Load()) < many/10; lists++ { // guests come while lists are read
		guests += checkList(t, d, many, name)
	}
	close(stop)
	churn.Wait()

	if s := value[server.Server](t)(d.Server(ctx, "s-1")); s.UserCount != many {
		t.Errorf("%d users counted, want %d", s.UserCount, many)
	}
	for range many / 5 {
		want := name(rand.IntN(many))
		did(reads.time(func() error {
			u, err := d.User(ctx, "s-1", want)
			if err == nil && u.UserName != want {
				err = fmt.Errorf("asked for %s, got %s", want, u.UserName)
			}
			return err
		}))
	}
	for i := range 200 {
		did(servers.time(func() error { _, err := d.Server(ctx, "s-1"); return err }))
		did(alone.time(func() error { return create(fmt.Sprint("alone-", i)) }))
	}
	t.Logf("%d lists of %d while %d came, %d of them seen", lists, many, churned.Load(), guests)
	t.Logf("%d users: User %v; CreateUser %v by %d writers, %v by one; Server with its count %v",
		many, &reads, &creates, writers, &alone, &servers)
	each(many, writers, func(i int) { did(d.DeleteUser(ctx, "s-1", name(i))) })
	if left := value[[]server.User](t)(d.Users(ctx, "s-1", server.Page{})); len(left) != 200 {
		t.Errorf("%d users left, want 200", len(left))
	}
}

// checkList reads all users by pages: in order, none twice, and all who stay. It tells how many others
// there were.
func checkList(t *testing.T, d *DB, many int, name func(int) string) (guests int) {
	t.Helper()
	stayed, before := 0, ""
	for {
		page := value[[]server.User](t)(d.Users(t.Context(), "s-1", server.Page{After: before, Limit: 100}))
		for _, u := range page {
			if u.UserName <= before {
				t.Fatalf("%s after %s", u.UserName, before)
			}
			before = u.UserName
			if u.UserName == name(stayed) {
				stayed++
			} else {
				guests++
			}
		}
		if len(page) < 100 {
			break
		}
	}
	if stayed != many {
		t.Fatalf("%s is missing", name(stayed))
	}
	return guests
}

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/db/pgtest"
)

const clusterConfig = `
data: %[1]s/data
database: %[2]s
api: {listen: "127.0.0.1:0"}
metrics: {listen: "127.0.0.1:0"}
sftp: {host: 127.0.0.1, ports: 0}
s3: {endpoint: %[3]s, retry: 20s}
drain: 1s
workers: 4
log: {file: %[1]s/transferd.log}
`

// rig is several daemons on one PostgreSQL and one S3 store.
type rig struct {
	t              *testing.T
	postgres       *pgtest.Cluster
	endpoint       string // of the store
	nodes          []*proc
	server         string
	key            string // of the user alice
	whole, partial string // workflows
	config         string // more of the configuration file
	crash          string // a crash point of all daemons
}

// startPostgres starts a PostgreSQL of the test's own.
func startPostgres(t *testing.T) *pgtest.Cluster {
	t.Helper()
	postgres, err := pgtest.Start(t.Context(), "fsync=on")
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(); err != nil {
			t.Error(err)
		}
	})
	return postgres
}

// startRig starts so many daemons with one server, its user and its workflows.
func startRig(t *testing.T, n int) *rig {
	t.Helper()
	r := newRig(t)
	for range n {
		r.launch(t.TempDir())
	}
	for _, p := range r.nodes {
		r.awaitNode(p)
	}
	r.furnish()
	return r
}

// newRig starts what the daemons will share.
func newRig(t *testing.T) *rig {
	t.Helper()
	postgres := startPostgres(t)
	return &rig{t: t, postgres: postgres, endpoint: startStore(t, t.TempDir(), "rigkey", "rigsecret"), key: newSSHKey(t)}
}

// launch starts one more daemon; with the folder of one that ended, that node again.
func (r *rig) launch(dir string) *proc {
	r.t.Helper()
	name := filepath.Join(dir, "transferd.yaml")
	text := fmt.Sprintf(clusterConfig, dir, r.postgres.URL("postgres"), r.endpoint) + r.config
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	p := spawn(r.t, startOptions{data: dir, crash: r.crash, args: []string{"serve", "-config", name}, env: []string{
		envAccessKeys + "=rigkey:rigsecret", envS3AccessKey + "=rigkey", envS3SecretKey + "=rigsecret",
	}})
	r.nodes = append(r.nodes, p)
	return p
}

func (r *rig) awaitNode(p *proc) {
	p.await("ready", func() bool { return strings.Contains(p.output(), "\nready\n") })
	p.env = map[string]string{
		"AWS_ACCESS_KEY_ID": "rigkey", "AWS_SECRET_ACCESS_KEY": "rigsecret", "AWS_REGION": "us-east-1", "S3_ENDPOINT": r.endpoint,
		"TRANSFER_ENDPOINT": regexp.MustCompile(`control API (\S+)`).FindStringSubmatch(p.output())[1],
		"METRICS_URL":       regexp.MustCompile(`metrics +(\S+)`).FindStringSubmatch(p.output())[1],
		"SFTP_USER":         "alice", "SFTP_KEY": r.key, "SFTP_HOST": "127.0.0.1",
	}
}

// furnish makes what all nodes serve, through the API of the first one, and waits until each serves it.
func (r *rig) furnish() {
	r.t.Helper()
	p, ctx := r.nodes[0], r.t.Context()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	_, err := p.s3().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(devBucket)})
	must(err)
	made, err := p.api().CreateServer(ctx, &transfer.CreateServerInput{})
	must(err)
	r.server = aws.ToString(made.ServerId)
	_, err = p.api().CreateUser(ctx, &transfer.CreateUserInput{ServerId: made.ServerId, UserName: aws.String("alice"),
		Role: aws.String(devRole), HomeDirectory: aws.String("/" + devBucket)})
	must(err)
	public, err := os.ReadFile(r.key + ".pub")
	must(err)
	_, err = p.api().ImportSshPublicKey(ctx, &transfer.ImportSshPublicKeyInput{ServerId: made.ServerId, UserName: aws.String("alice"),
		SshPublicKeyBody: aws.String(strings.TrimSpace(string(public)))})
	must(err)
	s := &devServer{client: p.api(), state: &devState{ServerID: serverID(r.server)}}
	r.whole, r.partial, err = s.demoWorkflows(ctx)
	must(err)
	for _, p := range r.nodes {
		r.awaitDoor(p)
	}
	out, err := r.nodes[len(r.nodes)-1].api().DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: made.ServerId})
	must(err)
	if out.Server.State != types.StateOnline {
		r.t.Errorf("all nodes listen and the server is %s", out.Server.State)
	}
}

// awaitDoor waits until a node listens, and finds out where: the server's tag shows one node's address.
func (r *rig) awaitDoor(p *proc) {
	r.t.Helper()
	p.await("the node listens", func() bool {
		for _, e := range p.logEntries("msg", "server listens") {
			if address, ok := e["address"].(string); ok && e["server"] == r.server {
				p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(address)
			}
		}
		return p.env["SFTP_PORT"] != ""
	})
}

// banner is what a node says before the login.
func (r *rig) banner(p *proc) (text string) {
	c := &ssh.ClientConfig{User: "alice", HostKeyCallback: ssh.InsecureIgnoreHostKey(), BannerCallback: func(m string) error {
		text = m
		return nil
	}}
	if client, err := ssh.Dial("tcp", net.JoinHostPort(p.env["SFTP_HOST"], p.env["SFTP_PORT"]), c); err == nil {
		_ = client.Close() // nobody gets in without a key
	}
	return text
}

// put uploads files through a node, three at a time, and gives them with what the client knows of each.
func (r *rig) put(p *proc, n int, prefix string) []*stormFile {
	files := make([]*stormFile, n)
	for i := range files {
		files[i] = &stormFile{name: fmt.Sprint(prefix, "-", i), seed: seed(), size: 1000 + rand.IntN(20_000), done: make(chan struct{})}
	}
	begun := make(chan struct{}, n) // nobody waits for it
	for first := range min(3, n) {
		go func() {
			for i := first; i < n; i += 3 {
				p.stormPut(files[i], begun)
			}
		}()
	}
	return files
}

// judge waits for the executions of all files on a living node and counts.
func (r *rig) judge(alive *proc, files []*stormFile) {
	r.t.Helper()
	for _, f := range files {
		<-f.done
	}
	runs := alive.awaitRuns(files, r.whole, r.partial)
	starts, read := map[string]map[string]int{}, map[string]bool{}
	for _, p := range r.nodes {
		if read[p.data] {
			continue // the log of a node that was started again
		}
		read[p.data] = true
		for id, steps := range p.stepStarts() {
			if starts[id] == nil {
				starts[id] = map[string]int{}
			}
			for step, n := range steps {
				starts[id][step] += n
			}
		}
	}
	var tally stormTally
	for _, f := range files {
		alive.judge(&tally, f, runs[f.name], starts)
	}
	tally.dangling = len(alive.danglingUploads())
	r.t.Logf("files %d: answered %d, cut %d, no answer to any write %d; executions OnUpload %d, OnPartialUpload %d; steps marked as repeated %d",
		tally.sent, tally.answered, tally.cut, tally.unsure, tally.wholeRuns, tally.partialRuns, tally.marked)
	r.t.Logf("lost %d, doubled %d, wrong trigger %d, no prefix %d, dangling %d, steps repeated without a mark %d",
		tally.lost, tally.doubled, tally.wrongTrigger, tally.notPrefix, tally.dangling, tally.unmarked)
	if tally.lost+tally.doubled+tally.wrongTrigger+tally.notPrefix+tally.dangling+tally.unmarked > 0 {
		r.t.Errorf("damage: %+v", tally)
	}
}

// TestCluster: three daemons on one PostgreSQL. What one is told, all do; one is killed for good while its uploads and
// steps are under way, and the others bring all of them to their end.
func TestCluster(t *testing.T) {
	t.Parallel()
	r := startRig(t, 3)
	first, second, dying := r.nodes[0], r.nodes[1], r.nodes[2]
	if _, err := first.api().UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: aws.String(r.server),
		PreAuthenticationLoginBanner: aws.String("news")}); err != nil {
		t.Fatal(err)
	}
	told := time.Now()
	second.await("the news on another node", func() bool { return strings.Contains(r.banner(second), "news") })
	t.Logf("a change through one node was seen by a login on another within %v", time.Since(told).Round(time.Millisecond))

	files := append(r.put(first, 8, "one"), r.put(second, 8, "two")...)
	last := r.put(dying, 16, "three")
	var open []*stormFile
	for i := range 3 {
		f := &stormFile{name: fmt.Sprint("open-", i), seed: seed(), size: 12 << 20, acked: true, done: make(chan struct{})}
		close(f.done)
		conn := dying.putPart(t, f.name, seeded(f.seed, f.size)[:11<<20])
		defer conn.Close() // the daemon may close it first
		open = append(open, f)
	}
	for _, f := range last {
		<-f.done
	}
	dying.kill()
	killed := time.Now()
	first.await("the open uploads of the dead node are partial", func() bool {
		found := 0
		for _, e := range first.allExecutions(r.partial) {
			if strings.HasPrefix(aws.ToString(e.InitialFileLocation.S3FileLocation.Key), "open-") {
				found++
			}
		}
		return found == len(open)
	})
	t.Logf("the open uploads of the dead node were partial %v after its kill", time.Since(killed).Round(time.Millisecond))
	files = append(append(files, last...), open...)
	r.judge(second, files)
	t.Logf("all executions had ended %v after the kill", time.Since(killed).Round(time.Millisecond))

	again := r.launch(dying.data)
	r.awaitNode(again)
	r.awaitDoor(again)
	r.judge(again, r.put(again, 4, "again"))
}

// TestClusterLosesItsDatabase: PostgreSQL is killed -9 and started again while two daemons work, once, or -storm / 4 times.
func TestClusterLosesItsDatabase(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	var files []*stormFile
	for round := range max(1, *stormKills/4) {
		var sent [][]*stormFile
		for i, p := range r.nodes {
			sent = append(sent, r.put(p, 15, fmt.Sprint("round-", round, "-", i)))
		}
		for _, batch := range sent {
			<-batch[0].done
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the randomness of the kill, not a wait
		if err := r.postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := r.postgres.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, batch := range sent {
			for _, f := range batch {
				<-f.done
			}
			files = append(files, batch...)
		}
	}
	for _, p := range r.nodes {
		p.await("it serves again", func() bool {
			_, client, err := p.tryDial()
			return err == nil && client.Close() == nil
		})
	}
	files = append(files, r.put(r.nodes[0], 2, "after")...)
	r.judge(r.nodes[1], files)
}

// TestMigrateCommand: the state of a stopped daemon goes to PostgreSQL and is served there; mistakes are named.
func TestMigrateCommand(t *testing.T) {
	t.Parallel()
	postgres := startPostgres(t)
	p := startDaemon(t, startOptions{})
	url := postgres.URL("postgres")
	if _, stderr, code := p.transferd("migrate", "-to", url, "-data", p.data); code != 1 || !strings.Contains(stderr, "in use by another transferd") {
		t.Errorf("while the daemon runs: status %d, %s", code, stderr)
	}
	before := p.server(p.env["SERVER_ID"])
	p.stop()
	if _, stderr, code := p.transferd("migrate", "-data", p.data); code != 2 || !strings.Contains(stderr, "give -to postgres://") {
		t.Errorf("without a target: status %d, %s", code, stderr)
	}
	out, stderr, code := p.transferd("migrate", "-to", url, "-data", p.data)
	if code != 0 || !regexp.MustCompile(`servers +2`).MatchString(out) && !regexp.MustCompile(`servers +1`).MatchString(out) {
		t.Fatalf("status %d, %s%s", code, out, stderr)
	}
	name := filepath.Join(p.data, "serve.yaml")
	text := fmt.Sprintf("data: %[1]s\ndatabase: %[2]s\napi: {listen: \"127.0.0.1:0\"}\nmetrics: {listen: \"127.0.0.1:0\"}\n"+
		"sftp: {host: 127.0.0.1, ports: 0}\nftp: {host: 127.0.0.1, ports: 0}\nlog: {file: %[1]s/serve.log}\n", p.data, url)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	q := spawn(t, startOptions{data: p.data, args: []string{"serve", "-config", name}, env: []string{
		envAccessKeys + "=" + p.env["AWS_ACCESS_KEY_ID"] + ":" + p.env["AWS_SECRET_ACCESS_KEY"], envS3AccessKey + "=a", envS3SecretKey + "=b",
	}})
	q.await("ready", func() bool { return strings.Contains(q.output(), "\nready\n") })
	q.env = p.env
	q.env["TRANSFER_ENDPOINT"] = regexp.MustCompile(`http://\S+`).FindString(q.output())
	if after := q.server(p.env["SERVER_ID"]); after["HostKeyFingerprint"] != before["HostKeyFingerprint"] || after["UserCount"] != before["UserCount"] {
		t.Errorf("the server was %v and is %v", before, after)
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// The three network namespaces: clients outside, a router that translates, the daemon inside. All addresses are for
// documentation or private, and none leaves the namespaces.
const (
	natPublic  = "198.51.100.1"   // the router's, which clients outside know
	natOutside = "198.51.100.2"   // a client's
	natMapped  = "198.51.100.130" // the same client's, in a network that the configuration maps to natPublic
	natNamed   = "198.51.100.66"  // the same client's, in a network that the configuration maps to natName
	natRouter  = "10.77.0.1"      // the router's inside; also a client's inside
	natServer  = "10.77.0.2"      // the daemon's, which clients outside cannot reach
	natName    = "ftp.nat.test"   // the name of natPublic in the daemon's namespace alone

	// natVariable tells the test inside the daemon's namespace the names of the others.
	natVariable = "TRANSFERD_TEST_NAT"
)

const natConfig = `
data: %[1]s/data
api:
  listen: 127.0.0.1:0
  access_keys: [{id: storekey}]
metrics: {listen: "127.0.0.1:0"}
sftp: {host: 127.0.0.1, ports: 0}
ftp:
  ports: 21
  passive_ports: 8192-8200
  passive_addresses: {198.51.100.128/25: 198.51.100.1, 198.51.100.64/26: ftp.nat.test}
certificates:
  %[2]s: {certificate: %[3]s, key: %[4]s}
identity: {users_file: %[5]s}
s3: {endpoint: %[6]s}
log: {file: %[1]s/transferd.log}
`

// TestPassiveAddressOverNAT: what PassiveIp and ftp.passive_addresses make clients on both sides of a NAT do. It makes
// network namespaces and runs TestPassiveAddressInside in the daemon's.
func TestPassiveAddressOverNAT(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("network namespaces need Linux and root")
	}
	prefix := fmt.Sprintf("transferd-%d-", os.Getpid())
	outside, router, inside := prefix+"outside", prefix+"router", prefix+"inside"
	for _, ns := range []string{outside, router, inside} {
		if out, err := netCommand(t, "ip", "netns", "add", ns); err != nil {
			t.Skipf("network namespaces are not permitted here: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := netCommand(t, "ip", "netns", "del", ns); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	if out, err := netCommand(t, "ip", "link", "add", "wan", "netns", router, "type", "veth", "peer", "name", "eth0", "netns", outside); err != nil {
		t.Skipf("virtual network interfaces are not to be had here: %v: %s", err, out)
	}
	for _, command := range []string{
		"ip link add lan netns " + router + " type veth peer name eth0 netns " + inside,
		"ip -n " + outside + " address add " + natOutside + "/24 dev eth0",
		"ip -n " + outside + " address add " + natMapped + "/24 dev eth0",
		"ip -n " + outside + " address add " + natNamed + "/24 dev eth0",
		"ip -n " + router + " address add " + natPublic + "/24 dev wan",
		"ip -n " + router + " address add " + natRouter + "/24 dev lan",
		"ip -n " + inside + " address add " + natServer + "/24 dev eth0",
		"ip -n " + outside + " link set lo up", "ip -n " + outside + " link set eth0 up",
		"ip -n " + router + " link set lo up", "ip -n " + router + " link set wan up", "ip -n " + router + " link set lan up",
		"ip -n " + inside + " link set lo up", "ip -n " + inside + " link set eth0 up",
		"ip -n " + inside + " route add default via " + natRouter,
		"ip netns exec " + router + " sh -c echo${IFS}1>/proc/sys/net/ipv4/ip_forward",
		"ip netns exec " + router + " nft add table ip nat",
		"ip netns exec " + router + " nft add chain ip nat in { type nat hook prerouting priority dstnat ; }",
		"ip netns exec " + router + " nft add chain ip nat out { type nat hook postrouting priority srcnat ; }",
		"ip netns exec " + router + " nft add rule ip nat in iifname wan ip daddr " + natPublic + " tcp dport { 21, 8192-8200 } dnat to " + natServer,
		"ip netns exec " + router + " nft add rule ip nat out oifname wan masquerade",
	} {
		words := strings.Fields(command)
		if out, err := netCommand(t, words[0], words[1:]...); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+natPublic+" "+natName+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// `ip netns exec` has given the shell mounts of its own, so this is no other's /etc/hosts.
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", inside, "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`,
		hosts, os.Args[0], "-test.run", "^TestPassiveAddressInside$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), natVariable+"="+outside+","+router)
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestPassiveAddressInside")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// netCommand runs a command that sets the network up or down, after the test's end too.
func netCommand(t *testing.T, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// natCase is one PassiveIp and one place of a client.
type natCase struct {
	name    string
	passive string // PassiveIp
	from    string // the client's address
	told    string // what PASV says
	obeys   bool   // whether a client that goes where PASV says arrives
}

func natCases() []natCase {
	return []natCase{
		{name: "AUTO outside", passive: "AUTO", from: natOutside, told: natServer},
		{name: "AUTO inside", passive: "AUTO", from: natRouter, told: natServer, obeys: true},
		{name: "map outside", passive: "AUTO", from: natMapped, told: natPublic, obeys: true},
		// A name is the configuration's alone: the API's PassiveIp has no room for one, it ends after 15 characters.
		{name: "name outside", passive: "AUTO", from: natNamed, told: natPublic, obeys: true},
		{name: "0.0.0.0 outside", passive: "0.0.0.0", from: natOutside, told: "0.0.0.0"},
		{name: "0.0.0.0 inside", passive: "0.0.0.0", from: natRouter, told: "0.0.0.0"},
		{name: "literal outside", passive: natPublic, from: natOutside, told: natPublic, obeys: true},
	}
}

// TestPassiveAddressInside runs in the daemon's namespace, as a child of TestPassiveAddressOverNAT.
func TestPassiveAddressInside(t *testing.T) {
	outside, router, ok := strings.Cut(os.Getenv(natVariable), ",")
	if !ok {
		t.Skip("runs in a network namespace that TestPassiveAddressOverNAT makes")
	}
	p := startNAT(t)
	id, _ := p.ftpServer(&types.ProtocolDetails{PassiveIp: aws.String("AUTO")}, "0.0.0.0:21", types.ProtocolFtps)
	set := "AUTO"
	for i, c := range natCases() {
		if c.passive != set {
			if _, err := p.api().UpdateServer(t.Context(), &transfer.UpdateServerInput{
				ServerId: aws.String(id), ProtocolDetails: &types.ProtocolDetails{PassiveIp: aws.String(c.passive)},
			}); err != nil {
				t.Fatal(err)
			}
			set = c.passive
		}
		ns, target := outside, natPublic
		if c.from == natRouter {
			ns, target = router, natServer
		}
		t.Run(c.name, func(t *testing.T) { p.natClients(t, c, ns, target, fmt.Sprintf("case-%d", i)) })
	}
}

// natClients sends a file with EPSV, with PASV and what PASV says, with PASV and the address that the client has anyway,
// and with lftp.
func (p *proc) natClients(t *testing.T, c natCase, ns, target, prefix string) {
	name, content := file(t, 200_000)
	url := "ftp://" + target + "/"
	told := "(" + strings.ReplaceAll(c.told, ".", ",") + ","
	curl := func(file string, args ...string) (string, error) {
		args = append([]string{"netns", "exec", ns, "curl", "-sSvk", "-m", "60", "--ssl-reqd", "-u", "nat:" + ftpPassword,
			"--interface", c.from, "-T", name}, args...)
		cmd := exec.CommandContext(t.Context(), "ip", append(args, url+file)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	// A change of the server counts for the next connections; it may be on its way still.
	skipping := []string{"--disable-epsv", "--ftp-skip-pasv-ip"}
	var out string
	var err error
	p.await("PASV says "+c.told, func() bool {
		out, err = curl(prefix+"-skip", skipping...)
		return strings.Contains(out, told)
	})
	if err != nil {
		t.Errorf("a client that keeps its address: %v: %s", err, out)
	}
	arrived := []string{prefix + "-skip", prefix + "-epsv", prefix + "-lftp"}
	if out, err := curl(prefix+"-epsv", "--ftp-skip-pasv-ip"); err != nil || !strings.Contains(out, "229 ") {
		t.Errorf("EPSV: %v: %s", err, out)
	}
	out, err = curl(prefix+"-obey", "--disable-epsv", "--no-ftp-skip-pasv-ip", "--connect-timeout", "10")
	switch {
	case c.obeys && err != nil:
		t.Errorf("a client that goes where PASV says: %v: %s", err, out)
	case c.obeys:
		arrived = append(arrived, prefix+"-obey")
	case err == nil:
		t.Errorf("%s is within reach: %s", c.told, out)
	}
	script := fmt.Sprintf("debug 4; set ssl:verify-certificate no; set ftp:prefer-epsv no; set net:max-retries 1; set net:timeout 60; set cmd:fail-exit yes; "+
		"set net:socket-bind-ipv4 %s; set ftp:ssl-force yes; open -u nat,%s ftp://%s; put %s -o %s-lftp; bye", c.from, ftpPassword, target, name, prefix)
	if out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, "lftp", "-c", script).CombinedOutput(); err != nil {
		t.Errorf("lftp: %v: %s", err, out)
	}
	for _, name := range arrived {
		if !bytes.Equal(p.object("nat/"+name), content) {
			t.Errorf("%s is not what was sent", name)
		}
	}
}

// startNAT runs `transferd serve` with FTP on every interface, and a store beside it.
func startNAT(t *testing.T) *proc {
	t.Helper()
	dir := t.TempDir()
	pair := newKeyPair(t, dir, "ftp")
	const key, secret = "storekey", "storesecret"
	store := startStore(t, dir, key, secret)
	config := filepath.Join(dir, "transferd.yaml")
	text := fmt.Sprintf(natConfig, dir, devCertificate, pair.Certificate, pair.Key, ftpUsers(t, dir, []string{"nat"}), store)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, startOptions{data: dir, args: []string{"serve", "-config", config}, env: []string{
		envAccessKeys + "=" + key + ":" + secret, envS3AccessKey + "=" + key, envS3SecretKey + "=" + secret,
	}})
	p.await("ready", func() bool { return strings.Contains(p.output(), "\nready\n") })
	p.env = map[string]string{"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": "us-east-1", "S3_ENDPOINT": store}
	if _, err := p.s3().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(devBucket)}); err != nil {
		t.Fatal(err)
	}
	p.env["TRANSFER_ENDPOINT"] = regexp.MustCompile(`http://\S+`).FindString(p.output())
	return p
}

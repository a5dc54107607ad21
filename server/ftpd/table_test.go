package ftpd_test

import (
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
)

// step is a command and the beginning of its reply.
type step struct{ command, reply string }

// play sends commands one after the other. None may have a word about where things really are, or of the library.
func (p *peer) play(steps []step) {
	p.t.Helper()
	for _, s := range steps {
		p.send(s.command)
		reply, err := p.reply()
		if err != nil || !strings.HasPrefix(reply, s.reply) {
			p.t.Errorf("%s: %q, %v, want %s", s.command, reply, err, s.reply)
		}
		for _, word := range []string{"not exist", "stat ", "fs.", "open ", "arn:", "panic", "%!", "implemented !"} {
			if strings.Contains(reply, word) {
				p.t.Errorf("%s: %q", s.command, reply)
			}
		}
		if !strings.HasSuffix(reply, "\r\n") || strings.Contains(strings.ReplaceAll(reply, "\r\n", ""), "\n") {
			p.t.Errorf("%s: ends of lines in %q", s.command, reply)
		}
	}
}

// What may be asked before the login, and what may not (RFC 959, 5.4; RFC 2389, 3; RFC 4217).
func TestCommandsBeforeLogin(t *testing.T) {
	t.Parallel()
	newRig(t).connect(t).play([]step{
		{"NOOP", "200"}, {"SYST", "215 UNIX Type: L8"}, {"FEAT", "211-"}, {"HELP", "214"}, {"CLNT test", "200"}, {"LANG", "200"}, {"OPTS UTF8 ON", "200"},
		{"STRU F", "200"}, {"MODE S", "200"}, {"TYPE I", "200"}, {"ACCT x", "202"},
		{"PASS x", "503"}, {"USER", "501"}, {"USER ", "501"}, {"USER " + strings.Repeat("a", 101), "501"}, {"AUTH", "501"}, {"AUTH GSSAPI", "504"},
		{"PBSZ 0", "503"}, {"PROT P", "503"}, {"CCC", "503"}, {"MIC x", "503"}, {"ENC x", "503"}, {"CONF x", "503"}, {"ADAT x", "503"},
		{"PASV", "530"}, {"EPSV", "530"}, {"LIST", "530"}, {"NLST", "530"}, {"MLSD", "530"}, {"RETR a", "530"}, {"STOR a", "530"}, {"APPE a", "530"},
		{"STOU", "530"}, {"REST 1", "530"}, {"ALLO 1", "530"}, {"MLST a", "530"}, {"SIZE a", "530"}, {"MDTM a", "530"}, {"MFMT 20200101000000 a", "530"},
		{"PWD", "530"}, {"CWD a", "530"}, {"CDUP", "530"}, {"MKD a", "530"}, {"RMD a", "530"}, {"DELE a", "530"}, {"RNFR a", "530"}, {"RNTO a", "530"},
		{"STAT a", "530"}, {"STAT", "530"},
		{"NONSENSE", "500"}, {"", "500"}, {"QUIT", "221"},
	})
}

// Every command of AWS's list (user guide, "Using an FTP or FTPS client"), and those beyond it.
func TestCommands(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/a", []byte("abc"))
	r.login(t, 0).play([]step{
		// Transfer parameters: RFC 959, 4.1.2. AWS: stream, file, image.
		{"STRU F", "200"}, {"STRU f", "200"}, {"STRU R", "504"}, {"STRU P", "504"}, {"STRU", "501"},
		{"MODE S", "200"}, {"MODE s", "200"}, {"MODE Z", "504"}, {"MODE B", "504"}, {"MODE", "501"},
		{"TYPE A", "200"}, {"TYPE A N", "200"}, {"SIZE a", "213 3\r\n"}, {"TYPE A T", "504"}, {"TYPE E", "504"}, {"TYPE L 8", "200"}, {"TYPE L 36", "504"},
		{"TYPE X", "501"}, {"TYPE", "501"}, {"TYPE I", "200"}, {"type i", "200"},
		// Negotiation: RFC 2389, RFC 2640, RFC 3659, 7.9.
		{"OPTS UTF8 ON", "200"}, {"opts utf8 on", "200"}, {"OPTS UTF8", "200"}, {"OPTS UTF8 OFF", "504"}, {"OPTS UTF-8 ON", "200"},
		{"OPTS MLST Size;UNIX.mode;type;", "200 MLST OPTS type;size;\r\n"}, {"OPTS MLST", "200 MLST OPTS\r\n"}, {"OPTS NONSENSE", "501"}, {"OPTS", "501"},
		{"LANG", "200"}, {"LANG en-US", "200"}, {"LANG fr", "504"}, {"HOST ftp.test", "502"}, {"CLNT test", "200"},
		// Active mode, RFC 2428, and EPSV's arguments. AWS: passive only.
		{"PORT 127,0,0,1,4,4", "502"}, {"EPRT |1|127.0.0.1|1234|", "502"}, {"LPRT 4", "502"}, {"PASV", "227 "}, {"EPSV", "229 "}, {"EPSV 1", "229"},
		{"EPSV 2", "522 Network protocol not supported, use (1)\r\n"}, {"EPSV 3", "501"},
		// What the server is: RFC 959, 4.1.3.
		{"SYST", "215 UNIX"}, {"HELP", "214"}, {"HELP STOR", "214"}, {"NOOP", "200"}, {"STAT", "211-"}, {"STAT a", "213-"}, {"STAT .", "212-"},
		{"STAT nothing", "550 No such file or directory.\r\n"}, {"FEAT", "211-"}, {"ACCT x", "202"}, {"SMNT x", "502"}, {"REIN", "502"},
		{"SITE HELP", "502"}, {"SITE CHMOD 777", "502"}, {"SITE CHMOD 777 a", "502"}, {"SITE", "502"}, {"XSHA256 a", "502"}, {"HASH a", "502"},
		{"COMB a b", "502"}, {"AVBL", "502"}, {"MD5 a", "502"}, {"NONSENSE", "500"}, {"", "500"},
		// Restarts and declared sizes: RFC 3659, 5; RFC 959, 4.1.3.
		{"REST -5", "501"}, {"REST x", "501"}, {"REST", "501"}, {"REST 2", "350"}, {"TYPE A", "200"}, {"REST 2", "350"}, {"TYPE I", "200"}, {"REST 0", "350"},
		{"ALLO 10", "200"}, {"ALLO 10 R 5", "200"}, {"ALLO x", "501"}, {"ALLO", "501"}, {"ALLO -1", "501"},
		// Once logged in.
		{"USER bob", "503"}, {"PASS x", "503"}, {"AUTH TLS", "503"}, {"PBSZ 0", "503"}, {"PROT P", "503"},
		// Files and directories: RFC 959, 4.1.3; RFC 3659; RFC 1123, 4.1.3.1 for the old names.
		{"PWD", "257 \"/bucket/home\""}, {"XPWD", "257"}, {"CWD nowhere", "550 No such file or directory.\r\n"}, {"CWD a", "550"}, {"CWD", "501"},
		{"MKD sub", "257 "}, {"MKD sub", "550 File already exists.\r\n"}, {"MKD", "501"}, {"CWD sub", "250"}, {"XCUP", "250"}, {"PWD", "257 \"/bucket/home\""},
		{"XCWD sub", "250"}, {"CDUP", "250"}, {"RMD", "501"}, {"RMD a", "550"}, {"RMD nothing", "550"}, {"RMD sub", "250"}, {"XMKD sub", "257"}, {"XRMD sub", "250"},
		{"SIZE a", "213 3\r\n"}, {"SIZE .", "550"}, {"SIZE", "501"}, {"MDTM a", "213 20231114221320\r\n"}, {"MDTM", "501"}, {"MDTM nothing", "550 No such file or directory.\r\n"},
		{"MLST a", "250-"}, {"MLST", "250-"}, {"MLST nothing", "550"},
		{"MFMT 20200101000000 a", "550 Times of files cannot be set.\r\n"}, {"MFMT x a", "501"}, {"MFMT", "501"},
		{"DELE nothing", "550 No such file or directory.\r\n"}, {"DELE", "501"}, {"DELE .", "550"}, {"DELE a\x00b", "553 Invalid name.\r\n"},
		// Renaming is two commands, one behind the other.
		{"RNTO b", "503"}, {"RNFR nothing", "550"}, {"RNTO b", "503"}, {"RNFR a", "350"}, {"NOOP", "200"}, {"RNTO b", "503"}, {"RNFR", "501"}, {"RNTO", "501"},
		{"MKD d", "257"}, {"RNFR a", "350"}, {"RNTO d", "550 File already exists.\r\n"}, {"RNFR nothing", "550"}, {"RNTO c", "503"}, {"SIZE a", "213"}, {"RMD d", "250"},
		{"RNFR a", "350"}, {"RNTO b", "250"}, {"RNTO c", "503"}, {"SIZE a", "550"}, {"STAT b", "213-"}, {"DELE b", "250"},
		// Transfers without what they need.
		{"STOR", "501"}, {"RETR", "501"}, {"APPE", "501"}, {"RETR nothing", "550 No such file or directory.\r\n"}, {"RETR .", "550"}, {"LIST nothing", "550"},
		{"MLSD nothing", "550"}, {"NLST nothing", "550"}, {"ABOR", "226"},
		{"EPSV ALL", "200"}, {"PASV", "503"}, {"PORT 127,0,0,1,4,4", "502"}, {"EPSV", "229"}, {"QUIT", "221"},
	})
}

// The commands of RFC 2228 and 4217 behind TLS. AWS: PROT P is mandatory.
func TestSecurityCommands(t *testing.T) {
	t.Parallel()
	for name, version := range tlsVersions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newRig(t, settings(func(s *server.Server) { s.Protocols = []string{"FTPS"} })).login(t, version).play([]step{
				{"AUTH TLS", "503"}, {"PBSZ 0", "200 PBSZ=0\r\n"}, {"PBSZ 100", "200 PBSZ=0\r\n"}, {"PBSZ", "501"}, {"PROT", "501"}, {"PROT C", "534"}, {"PROT S", "536"},
				{"PROT E", "536"}, {"PROT X", "504"}, {"PROT P", "200"}, {"prot p", "200"}, {"CCC", "534"}, {"ADAT x", "503"}, {"MIC x", "537"},
				{"CONF x", "537"}, {"ENC x", "537"}, {"PASV", "227"}, {"QUIT", "221"},
			})
		})
	}
	newRig(t, settings(func(s *server.Server) { s.Protocols = []string{"FTP"} })).connect(t).play([]step{
		{"AUTH TLS", "502"}, {"PBSZ 0", "503"}, {"PROT P", "503"}, {"CCC", "502"}, {"ENC x", "502"},
	})
}

// FEAT names what there is (RFC 2389, 3.2: each on a line of its own that begins with a space).
func TestFeatures(t *testing.T) {
	t.Parallel()
	reply := newRig(t).connect(t).cmd("211", "FEAT")
	for _, feature := range []string{"UTF8", "SIZE", "MDTM", "MFMT", "REST STREAM", "MLST type*;size*;modify*;", "EPSV", "TVFS", "LANG EN*", "AUTH TLS", "PBSZ", "PROT"} {
		if !strings.Contains(reply, "\r\n "+feature+"\r\n") {
			t.Errorf("no %s in %q", feature, reply)
		}
	}
	if strings.Contains(reply, "EPRT") {
		t.Errorf("EPRT in %q", reply)
	}
}

// OPTS MLST says which facts MLSD and MLST show, and FEAT marks them (RFC 3659, 7.8 and 7.9).
func TestFacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/a b; c=d", []byte("abc"))
	p := r.login(t, 0)
	for _, c := range []struct{ options, reply, feature, entry string }{
		{"OPTS MLST size;UNIX.mode;", "200 MLST OPTS size;\r\n", "MLST type;size*;modify;", "Size=3; a b; c=d\r\n"},
		{"OPTS MLST Type;Modify;", "200 MLST OPTS type;modify;\r\n", "MLST type*;size;modify*;", "Type=file;Modify="},
		{"OPTS MLST", "200 MLST OPTS\r\n", "MLST type;size;modify;", " a b; c=d\r\n"},
		{"OPTS MLST type;size;modify;", "200 MLST OPTS type;size;modify;\r\n", "MLST type*;size*;modify*;", "Type=file;Size=3;Modify="},
	} {
		if got := p.cmd("200", c.options); got != c.reply {
			t.Errorf("%s: %q", c.options, got)
		}
		if got := p.cmd("211", "FEAT"); !strings.Contains(got, "\r\n "+c.feature+"\r\n") {
			t.Errorf("%s: FEAT %q", c.options, got)
		}
		if got := p.fetch("MLSD"); !strings.HasPrefix(got, c.entry) || !strings.HasSuffix(got, " a b; c=d\r\n") {
			t.Errorf("%s: MLSD %q", c.options, got)
		}
		if got := p.cmd("250", "MLST a b; c=d"); !strings.Contains(got, "\r\n "+c.entry) || !strings.Contains(got, " a b; c=d\r\n250 ") {
			t.Errorf("%s: MLST %q", c.options, got)
		}
	}
}

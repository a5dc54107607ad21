package ftpd

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// filter looks at a command before the library does. It gives back the line that the library gets; false: the command is
// answered.
func (c *connection) filter(line string) (string, bool) {
	verb, arg := parse(line)
	c.client.saw(verb, arg)
	if verb == "XCUP" { // RFC 1123, 4.1.3.1: the old names still count; the library knows the others
		verb, line = "CDUP", "CDUP"
	}
	if verb != "ABOR" && (verb != "STAT" || arg != "") {
		c.awaitTransfer()
	}
	c.begin(verb)
	if missing := argumentOf(verb); missing != "" && strings.TrimSpace(arg) == "" {
		return c.answer(501, "A "+missing+" is missing.")
	}
	if out, pass, ours := c.access(verb, arg, line); ours {
		return out, pass
	}
	if out, pass, ours := c.transferCommand(verb, arg); ours {
		return out, pass
	}
	return c.otherCommand(verb, arg, line)
}

// answer answers a command itself. Nothing is owed to a transfer then: filter has waited.
func (c *connection) answer(code int, text string) (string, bool) {
	// An error means that the client is gone, which the reading finds out.
	_ = c.control.send(strconv.Itoa(code) + " " + text + "\r\n")
	return "", false
}

// argumentOf is what a command cannot do without. The library would take the current directory, even for RMD.
func argumentOf(verb string) string {
	switch verb {
	case "CWD", "XCWD", "MKD", "XMKD", "RMD", "XRMD":
		return "directory name"
	case "RETR", "STOR", "APPE", "DELE", "RNFR", "RNTO", "SIZE", "MDTM":
		return "file name"
	case "MFMT":
		return "time and a file name"
	case "USER":
		return "user name"
	case "TYPE", "MODE", "STRU", "OPTS":
		return "parameter"
	case "PBSZ", "PROT":
		return "value"
	}
	return ""
}

// transferCommand has the commands that use a data connection, and those that prepare one.
func (c *connection) transferCommand(verb, arg string) (out string, pass, ours bool) {
	switch verb {
	case "PASV", "EPSV":
		out, pass = c.passive(verb, arg)
	case "LIST", "NLST", "MLSD":
		if verb != "MLSD" {
			arg = withoutOptions(arg)
		}
		out, pass = c.startTransfer(verb, arg)
	case "RETR", "STOR", "APPE":
		out, pass = c.startTransfer(verb, arg)
	case "STOU":
		// RFC 959, 4.1.3: a name that is unique in the directory; RFC 1123, 4.1.2.9: the 150 says which.
		c.unique = uniqueName(arg)
		out, pass = c.startTransfer("STOR", c.unique)
	case "PORT", "EPRT", "LPRT":
		out, pass = c.answer(502, "Active mode is not supported: use PASV or EPSV.")
	case "ABOR":
		// RFC 959, 4.1.3: the transfer's reply, 426 as a rule, then 226. The library's ABOR writes into the middle of what
		// the transfer's goroutine writes.
		c.abort()
		out, pass = c.answer(226, "Nothing is under way.")
	default:
		return "", false, false
	}
	return out, pass, true
}

// startTransfer passes a command on that will use a data connection.
func (c *connection) startTransfer(verb, arg string) (string, bool) {
	c.offset, c.restart = c.restart, 0
	if s, _ := c.look(); s.verb != "RETR" && s.verb != "STOR" { // RFC 3659, 5: REST is for those
		c.offset = 0
	}
	switch {
	case c.session == nil:
		return c.answer(530, "Log in with USER and PASS.")
	case !c.dataAllowed():
		return c.answer(521, "Data connections must be protected: send PROT P.")
	case !c.beginTransfer():
		return c.answer(421, "The server is stopping.")
	}
	return verb + " " + arg, true
}

// dataAllowed: behind a protected control connection data is protected too (AWS: PROT P is mandatory for FTPS).
func (c *connection) dataAllowed() bool { return !c.secure.Load() || c.protected.Load() }

// withoutOptions drops what clients take from ls.
func withoutOptions(arg string) string {
	for strings.HasPrefix(arg, "-") {
		_, arg, _ = strings.Cut(arg, " ")
		arg = strings.TrimLeft(arg, " ")
	}
	return arg
}

func uniqueName(wish string) string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	if wish == "" {
		wish = "stou"
	}
	return wish + "." + hex.EncodeToString(b[:])
}

// passive prepares a data connection, if there is an address to tell.
func (c *connection) passive(verb, arg string) (string, bool) {
	switch {
	case c.session == nil:
		return c.answer(530, "Log in with USER and PASS.")
	case !c.dataAllowed():
		return c.answer(521, "Data connections must be protected: send PROT P.")
	case verb == "EPSV":
		return c.extended(strings.ToUpper(strings.TrimSpace(arg)))
	case c.extendedOnly: // RFC 2428, 4
		return c.answer(503, "You promised to use EPSV only.")
	case !c.local.Is4():
		return c.answer(425, "PASV cannot tell an IPv6 address: use EPSV.")
	}
	address, err := c.passiveAddress()
	if err != nil {
		c.metrics.passive.WithLabelValues("address").Inc()
		c.fault(c.ctx, "PASV", err)
		return c.answer(425, "No address for data connections is known: use EPSV.")
	}
	c.told = address
	return verb, true
}

// extended is EPSV with its arguments (RFC 2428, 3): ALL promises to use nothing else, 1 and 2 are the IP versions.
func (c *connection) extended(arg string) (string, bool) {
	version := map[bool]string{true: "1", false: "2"}[c.local.Is4()]
	switch arg {
	case "ALL":
		c.extendedOnly = true
		return c.answer(200, "EPSV ALL accepted.")
	case "", version:
		return "EPSV", true
	case "1", "2":
		return c.answer(522, "Network protocol not supported, use ("+version+")")
	}
	return c.answer(501, "Unknown network protocol.")
}

// otherCommand has the commands that the library answers wrongly or not at all.
func (c *connection) otherCommand(verb, arg, line string) (string, bool) {
	word := strings.ToUpper(strings.TrimSpace(arg))
	switch verb {
	case "FEAT":
		return c.features()
	case "OPTS":
		return c.options(word)
	case "LANG": // RFC 2640, 4.1
		if word == "" || strings.HasPrefix(word, "EN") {
			return c.answer(200, "Responses are in English.")
		}
		return c.answer(504, "Only English is spoken.")
	case "STAT":
		if word == "" {
			return c.status()
		}
	case "TYPE":
		return c.representation(strings.Fields(word))
	case "STRU":
		return c.only(word, "F", "File structure is F.")
	case "MODE":
		return c.only(word, "S", "Mode is stream.")
	case "SITE":
		return c.answer(502, "SITE is not supported.")
	case "REST":
		return c.restartAt(strings.TrimSpace(arg))
	case "RNTO":
		return c.renameTo(line)
	case "ALLO":
		return c.allocate(arg)
	case "CLNT":
		return c.answer(200, "Noted.")
	case "HELP":
		return c.answer(214, "See RFC 959, 2389, 2428, 3659 and 4217.")
	case "ACCT":
		return c.answer(202, "No account is needed.")
	case "CCC", "ADAT", "MIC", "CONF", "ENC":
		return c.unprotect(verb)
	case "SMNT", "HOST", "REIN", "HASH", "COMB", "AVBL", "XCRC", "MD5", "XMD5", "XSHA", "XSHA1", "XSHA256", "XSHA512", "CSID":
		return c.answer(502, "Command not supported.")
	}
	return line, true
}

// only answers a command that has one possible argument.
func (c *connection) only(got, want, text string) (string, bool) {
	if got == want {
		return c.answer(200, text)
	}
	return c.answer(504, "Only "+want+" is supported.")
}

// status is STAT without a name (RFC 959, 4.1.3), which may come during a transfer. The library's would write into the
// middle of what the transfer's goroutine writes.
func (c *connection) status() (string, bool) {
	if c.session == nil {
		return c.answer(530, "Log in with USER and PASS.")
	}
	list := []string{"Connected from " + c.sourceIP, "Logged in as " + c.name, "TYPE I, STRU F, MODE S"}
	if c.secure.Load() {
		list = append(list, c.tlsVersion+", "+c.cipher)
	}
	if s, _ := c.look(); s.active {
		list = append(list, "A transfer is under way")
	}
	_ = c.control.send("211-Status:\r\n " + strings.Join(list, "\r\n ") + "\r\n211 End\r\n")
	return "", false
}

// features lists what there is beyond RFC 959 (RFC 2389, 3).
func (c *connection) features() (string, bool) {
	list := []string{"UTF8", "CLNT", "SIZE", "MDTM", "MFMT", "REST STREAM", "EPSV", "PASV", "TVFS", "LANG EN*", c.unwanted.feature()}
	if c.rules.ftps {
		list = append(list, "AUTH TLS", "PBSZ", "PROT")
	}
	_ = c.control.send("211-Features:\r\n " + strings.Join(list, "\r\n ") + "\r\n211 End\r\n")
	return "", false
}

func (c *connection) options(word string) (string, bool) {
	name, value, _ := strings.Cut(word, " ")
	switch {
	case (name == "UTF8" || name == "UTF-8") && value != "OFF":
		return c.answer(200, "UTF-8 is always on.")
	case name == "MLST":
		return c.chooseFacts(value)
	case name == "UTF8" || name == "UTF-8":
		return c.answer(504, "UTF-8 cannot be turned off.")
	}
	return c.answer(501, "Unknown option.")
}

// restartAt keeps where the next transfer is to begin (RFC 3659, 5). It is not the library's business, which refuses it in
// TYPE A, where bytes are bytes here too.
func (c *connection) restartAt(arg string) (string, bool) {
	n, err := strconv.ParseInt(arg, 10, 64)
	switch {
	case c.session == nil:
		return c.answer(530, "Log in with USER and PASS.")
	case err != nil || n < 0:
		return c.answer(501, "REST needs a number of bytes.")
	}
	c.restart = n
	return c.answer(350, "Send STOR or RETR to begin there.")
}

// representation is TYPE. Text is taken as it is, so A and I are the same (see driver.GetSettings).
func (c *connection) representation(word []string) (string, bool) {
	switch {
	case word[0] == "A" && (len(word) == 1 || word[1] == "N"):
		return c.answer(200, "Type is A; bytes are not converted.")
	case word[0] == "I" && len(word) == 1, word[0] == "L" && len(word) == 2 && word[1] == "8":
		return c.answer(200, "Type is I.")
	case word[0] == "A", word[0] == "E", word[0] == "I", word[0] == "L":
		return c.answer(504, "Only A and I are supported.")
	}
	return c.answer(501, "Unknown type.")
}

// renameTo lets RNTO pass behind its RNFR only (RFC 959, 4.1.3). The library would take the last RNFR that it liked.
func (c *connection) renameTo(line string) (string, bool) {
	ready := false
	c.change(func(s *connectionState) { ready, s.renaming = s.renaming, false })
	switch {
	case c.session == nil:
		return c.answer(530, "Log in with USER and PASS.")
	case !ready:
		return c.answer(503, "RNFR comes first.")
	}
	return line, true
}

// unprotect has the commands of RFC 2228 that TLS has no use for, and CCC, which would end it (RFC 4217, 6).
func (c *connection) unprotect(verb string) (string, bool) {
	switch {
	case !c.rules.ftps:
		return c.answer(502, "TLS is not enabled on this server.")
	case !c.secure.Load():
		return c.answer(503, "AUTH TLS first.")
	case verb == "CCC":
		return c.answer(534, "The control connection stays protected.")
	case verb == "ADAT":
		return c.answer(503, "TLS needs no more data.")
	}
	return c.answer(537, "TLS protects all commands: send them as they are.")
}

// allocate keeps the declared size for the next upload (RFC 959, 4.1.3: ALLO size [R size]). No space is set aside.
func (c *connection) allocate(arg string) (string, bool) {
	if c.session == nil {
		return c.answer(530, "Log in with USER and PASS.")
	}
	size, record, _ := strings.Cut(strings.TrimSpace(arg), " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || record != "" && !strings.HasPrefix(strings.ToUpper(record), "R ") {
		return c.answer(501, "ALLO needs a number of bytes.")
	}
	c.declared.Store(n)
	return c.answer(200, "Noted.")
}

// addressOf is an endpoint's IP; IPv4 is IPv4 also where the socket speaks both.
func addressOf(endpoint string) netip.Addr {
	at, err := netip.ParseAddrPort(endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/cmd/transferd/internal/doctor"
)

// TestDoctor examines the daemon as it is set up well and badly: resumption modes, protocols, passive addresses, ports
// that cannot be reached, a certificate that nobody trusts.
func TestDoctor(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	address := net.JoinHostPort("localhost", p.env["FTP_PORT"])
	ca, secret := filepath.Join(p.data, "ftp.crt"), filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(p.env["FTP_PASSWORD"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	login := []string{"doctor", "ftp", address, "-user", p.env["FTP_USER"], "-password-file", secret, "-timeout", patience.String()}
	trusting := append(login, "-ca-file", ca, "--json")

	out, errs, code := p.transferd(trusting...)
	if code != 0 || strings.Contains(out+errs, p.env["FTP_PASSWORD"]) {
		t.Errorf("a healthy server: status %d\n%s%s", code, out, errs)
	}
	healthy := readReport(t, out)
	for _, version := range []string{"TLS 1.2", "TLS 1.3"} {
		healthy.has(t, version+": resumption", doctor.OK, "must resume, and do (ENFORCED)")
	}
	healthy.has(t, "PASV", doctor.OK, "can be reached")
	healthy.has(t, "EPSV", doctor.OK, "can be reached")
	healthy.has(t, "login without TLS", doctor.Warning, "Protocols")
	if table, _, code := p.transferd(login...); code != 1 || !strings.Contains(table, "WRONG    certificate: chain") || !strings.Contains(table, "to mend it: ") {
		t.Errorf("a certificate that nobody trusts: status %d\n%s", code, table)
	}

	for _, c := range []struct {
		change      transfer.UpdateServerInput
		check, says string
		status      doctor.Status
		code        int
	}{
		{protocolDetails("ENABLED", ""), "TLS 1.2: resumption", "may resume, and need not (ENABLED)", doctor.OK, 0},
		{protocolDetails("ENABLED", ""), "TLS 1.3: resumption", "may resume, and need not (ENABLED)", doctor.OK, 0},
		{protocolDetails("DISABLED", ""), "TLS 1.2: resumption", "TlsSessionResumptionMode to ENABLED", doctor.Warning, 0},
		{protocolDetails("DISABLED", ""), "TLS 1.3: resumption", "gives no ticket", doctor.Warning, 0},
		{protocolDetails("ENFORCED", "0.0.0.0"), "PASV", "Net::FTP", doctor.Warning, 0},
		{transfer.UpdateServerInput{Protocols: []types.Protocol{types.ProtocolFtps}}, "login without TLS", "is refused (530)", doctor.OK, 0},
		{transfer.UpdateServerInput{Protocols: []types.Protocol{types.ProtocolFtp}}, "AUTH TLS", "add FTPS to the server's Protocols", doctor.Wrong, 1},
	} {
		p.updateFTP(&c.change)
		p.await(c.check+" "+c.says, func() bool {
			out, errs, code = p.transferd(trusting...)
			return readReport(t, out).find(c.check, c.status, c.says)
		})
		if code != c.code {
			t.Errorf("%s: status %d, want %d\n%s%s", c.says, code, c.code, out, errs)
		}
	}
}

// TestDoctorReach: passive addresses and ports that clients cannot reach, as a NAT and a firewall make them.
func TestDoctorReach(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	address := net.JoinHostPort("127.0.0.1", p.env["FTP_PORT"])
	roots, err := pool(filepath.Join(p.data, "ftp.crt"))
	if err != nil {
		t.Fatal(err)
	}
	examine := func(through func(address string) bool) report {
		return report{doctor.Run(t.Context(), doctor.Config{
			Address: address, User: p.env["FTP_USER"], Password: p.env["FTP_PASSWORD"], Roots: roots, Timeout: patience,
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if !through(address) {
					return nil, errors.New("no route to host")
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		})}
	}
	firewall := func(to string) bool { return to == address }
	blocked := examine(firewall)
	blocked.has(t, "PASV", doctor.Wrong, "let the ports of ftp.passive_ports through")
	blocked.has(t, "EPSV", doctor.Wrong, "let the ports of ftp.passive_ports through")

	change := protocolDetails("ENFORCED", "192.0.2.1")
	p.updateFTP(&change)
	nat := func(to string) bool { return strings.HasPrefix(to, "127.0.0.1:") }
	p.await("a passive address that is wrong", func() bool {
		r := examine(nat)
		return r.find("PASV", doctor.Wrong, "tells 192.0.2.1, which cannot be reached") && r.find("PASV", doctor.Wrong, "PassiveIp") && r.find("EPSV", doctor.OK, "")
	})
	examine(firewall).has(t, "PASV", doctor.Wrong, "nor can port")
}

// TestDoctorUsage: a command line that is not understood has status 2 and says why.
func TestDoctorUsage(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"ftp is missing":             {},
		"HOST:PORT is missing":       {"ftp"},
		"there is no doctor for":     {"sftp", "localhost:22"},
		"is no HOST:PORT":            {"ftp", "localhost"},
		"-user needs a password":     {"ftp", "localhost:21", "-user", "anna"},
		"-password-file: ":           {"ftp", "localhost:21", "-user", "anna", "-password-file", "/nowhere"},
		"-ca-file: ":                 {"ftp", "localhost:21", "-ca-file", "/dev/null"},
		"-timeout must be more than": {"ftp", "localhost:21", "-timeout", "0s"},
		"unexpected argument":        {"ftp", "localhost:21", "more"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), process{stdout: &out, stderr: &out}, append([]string{"doctor"}, args...)); code != 2 || !strings.Contains(out.String(), want) {
			t.Errorf("%v: status %d, want 2 and %q:\n%s", args, code, want, out.String())
		}
	}
}

// report is what the doctor found.
type report struct{ doctor.Report }

func readReport(t *testing.T, text string) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return r
}

func (r report) find(check string, status doctor.Status, text string) bool {
	for _, f := range r.Findings {
		if f.Check == check && f.Status == status && strings.Contains(f.Says+" "+f.Mend, text) {
			return true
		}
	}
	return false
}

func (r report) has(t *testing.T, check string, status doctor.Status, text string) {
	t.Helper()
	if !r.find(check, status, text) {
		t.Errorf("no finding %s %s %q in %+v", check, status, text, r.Findings)
	}
}

// protocolDetails changes what servers of FTP have.
func protocolDetails(mode types.TlsSessionResumptionMode, passive string) transfer.UpdateServerInput {
	if passive == "" {
		passive = "AUTO"
	}
	return transfer.UpdateServerInput{ProtocolDetails: &types.ProtocolDetails{TlsSessionResumptionMode: mode, PassiveIp: aws.String(passive)}}
}

// updateFTP changes the server of FTP, which stays up.
func (p *proc) updateFTP(in *transfer.UpdateServerInput) {
	p.t.Helper()
	in.ServerId = aws.String(p.env["FTP_SERVER_ID"])
	if _, err := p.api().UpdateServer(p.t.Context(), in); err != nil {
		p.t.Fatal(err)
	}
}

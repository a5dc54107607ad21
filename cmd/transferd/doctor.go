package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/doctor"
)

const doctorAbout = `transferd doctor ftp HOST:PORT: examine an FTP or FTPS server as a client sees it, and say what is wrong and which setting
mends it: greeting, commands, TLS and its certificate; with a login also where PASV and EPSV send clients, whether they
get there, and whether data connections resume the TLS session, in TLS 1.2 and 1.3. It uploads nothing. Run it where the
clients are: what they can reach differs from place to place.

The password comes from a file or from the variable TRANSFERD_DOCTOR_PASSWORD. Exit status 0 if nothing is wrong, 1 if
something is, 2 if the command line is not understood.

Examples:
  transferd doctor ftp ftp.example.com:21
  TRANSFERD_DOCTOR_PASSWORD="$FTP_PASSWORD" transferd doctor ftp "localhost:$FTP_PORT" -user "$FTP_USER" -ca-file transferd-data/ftp.crt
  transferd doctor ftp ftp.example.com:990 -implicit -user anna -password-file secret --json`

// doctorPassword is the variable with the password.
const doctorPassword = "TRANSFERD_DOCTOR_PASSWORD"

func runDoctor(ctx context.Context, p process, args []string) error {
	c := doctor.Config{Now: time.Now}
	fs := newFlags(p, "doctor", doctorAbout)
	fs.StringVar(&c.User, "user", "", "log in as this `name`")
	passwordFile := fs.String("password-file", "", "`file` with the password in its first line")
	caFile := fs.String("ca-file", "", "`file` with the certificates to trust, PEM (default the system's)")
	fs.BoolVar(&c.Implicit, "implicit", false, "begin with TLS, as port 990 does")
	fs.BoolVar(&c.Plain, "plain", false, "send the password without TLS if the server has none")
	fs.DurationVar(&c.Timeout, "timeout", 20*time.Second, "how long each step may take")
	asJSON := fs.Bool("json", false, "print JSON")
	words, err := parseWords(fs, args, "ftp", "HOST:PORT")
	if err != nil {
		return err
	}
	c.Address = words[1]
	host, port, err := net.SplitHostPort(c.Address)
	password, found, unread := doctorSecret(*passwordFile)
	complaint := ""
	switch {
	case words[0] != "ftp":
		complaint = fmt.Sprintf("there is no doctor for %q: it is `transferd doctor ftp HOST:PORT`", words[0])
	case err != nil || host == "" || port == "":
		complaint = fmt.Sprintf("%q is no HOST:PORT, as in ftp.example.com:21", c.Address)
	case unread != nil:
		complaint = "-password-file: " + unread.Error()
	case c.User != "" && !found:
		complaint = "-user needs a password: give -password-file or set " + doctorPassword
	case c.Timeout <= 0:
		complaint = "-timeout must be more than 0"
	}
	if complaint == "" && *caFile != "" {
		if c.Roots, err = pool(*caFile); err != nil {
			complaint = "-ca-file: " + err.Error()
		}
	}
	if complaint != "" {
		fmt.Fprintln(p.stderr, "transferd doctor: "+complaint)
		return errUsage
	}
	c.Password = password
	return diagnose(ctx, p, c, *asJSON)
}

// doctorSecret finds the password.
func doctorSecret(file string) (password string, found bool, err error) {
	if file == "" {
		password, found = os.LookupEnv(doctorPassword)
		return password, found, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSuffix(line, "\r"), true, nil
}

// pool reads the authorities of a file.
func pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", file)
	}
	return roots, nil
}

// diagnose examines and prints.
func diagnose(ctx context.Context, p process, c doctor.Config, asJSON bool) error {
	report := doctor.Run(ctx, c)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := printReport(p, report, asJSON); err != nil {
		return err
	}
	if !report.Well() {
		return exitError(1)
	}
	return nil
}

func printReport(p process, report doctor.Report, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(p.stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			doctor.Report
			Well bool
		}{report, report.Well()})
	}
	var rows [][]string
	count := map[doctor.Status]int{}
	for _, f := range report.Findings {
		count[f.Status]++
		word := string(f.Status)
		if f.Status == doctor.Wrong {
			word = "WRONG"
		}
		rows = append(rows, []string{word, f.Check, f.Says})
		if f.Mend != "" && f.Status != doctor.OK {
			rows = append(rows, []string{"", "", "  to mend it: " + f.Mend})
		}
	}
	if err := table(p.stdout, "RESULT\tCHECK\tFOUND", rows); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "\n%s: %d wrong, %d warnings\n", report.Address, count[doctor.Wrong], count[doctor.Warning])
	return nil
}

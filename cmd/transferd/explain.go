package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/vfs"
)

const explainAbout = `transferd explain: whether a user may do something, and which rule says so: the home directory or mapping, the statement
of the session policy, or on a file system the file or directory whose mode decides, as the kernel sees the user. The
running daemon answers from what it would go by at the next login. No file is touched and no bucket is asked, so what the
role or the store say to it is not among the rules.

Users of a server whose identity provider is not the catalogue are known to that provider alone, and it answers to a
password or a key: give one, and the daemon asks the provider as at a login. The attempt is not counted as one.` + localAbout + `

Exit status 0 if it is allowed, 1 if it is denied, 2 if the question is not understood, 3 if there is no answer.

Examples:
  transferd explain -server s-0123456789abcdef0 -user anna -op put -path /in/report.csv
  transferd explain -server s-0123456789abcdef0 -user anna -op rename -path a -to b -json
  transferd explain -server s-0123456789abcdef0 -user carol -op list -path / -password-file secret.txt`

// noAnswer is the exit status of a question that could not be asked: 1 says denied.
const noAnswer = exitError(3)

// explainQuestion is what the command asks the daemon.
type explainQuestion struct {
	ServerId  server.ID
	UserName  string
	Operation string
	Path      string
	To        string `json:",omitempty"`
	SourceIp  string `json:",omitempty"`
	Password  string `json:",omitempty"`
	PublicKey string `json:",omitempty"` // authorized_keys form
}

// explainAnswer is what the daemon says, and --json prints.
type explainAnswer struct {
	ServerId  server.ID
	UserName  string
	Operation string
	vfs.Explanation
}

func runExplain(ctx context.Context, p process, args []string) error {
	q, url, asJSON, err := explainFlags(p, args)
	if err != nil {
		return err
	}
	answer, err := askExplain(ctx, url, q)
	if err == nil && asJSON {
		e := json.NewEncoder(p.stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(answer)
	} else if err == nil {
		err = answer.print(p.stdout)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "transferd explain: %v\n", err)
		return noAnswer
	}
	if !answer.Allowed {
		return exitError(1)
	}
	return nil
}

func explainFlags(p process, args []string) (q explainQuestion, url string, asJSON bool, err error) {
	flags := newFlags(p, "explain", explainAbout)
	at := metricsFlag(flags)
	flags.StringVar((*string)(&q.ServerId), "server", "", "the server's `id`")
	flags.StringVar(&q.UserName, "user", "", "the user's `name`")
	flags.StringVar(&q.Operation, "op", "", "what the user does: "+strings.Join(vfs.Operations(), ", "))
	flags.StringVar(&q.Path, "path", "", "the `path` as the client names it; a relative one begins at the home directory")
	flags.StringVar(&q.To, "to", "", "the new `path` of a rename")
	flags.StringVar(&q.SourceIp, "source-ip", "127.0.0.1", "the `address` that the client comes from")
	password := flags.String("password-file", "", "a `file` with the password to ask an identity provider with; - is stdin")
	key := flags.String("key", "", "a `file` with the public key to ask an identity provider with")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	if err := parse(flags, args); err != nil {
		return q, "", false, err
	}
	wrong := ""
	switch {
	case q.ServerId == "" || q.UserName == "" || q.Path == "":
		wrong = "-server, -user, -op and -path are needed"
	case !slices.Contains(vfs.Operations(), q.Operation):
		wrong = "-op must be one of " + strings.Join(vfs.Operations(), ", ")
	case (q.To != "") != (q.Operation == "rename"):
		wrong = "-to belongs to -op rename, which needs it"
	case q.SourceIp != "" && net.ParseIP(q.SourceIp) == nil:
		wrong = "-source-ip must be an address such as 192.0.2.7"
	case *password != "" && *key != "":
		wrong = "-password-file and -key: one is enough"
	}
	if wrong != "" {
		fmt.Fprintf(p.stderr, "%s\n\n", wrong)
		flags.Usage()
		return q, "", false, errUsage
	}
	if err := q.prove(*password, *key); err != nil {
		fmt.Fprintf(p.stderr, "transferd explain: %v\n", err)
		return q, "", false, noAnswer
	}
	return q, strings.TrimSuffix(*at, "/") + "/debug/explain", asJSON, nil
}

// prove reads what an identity provider is asked with.
func (q *explainQuestion) prove(password, key string) error {
	switch {
	case password == "-":
		b, err := io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
		q.Password = strings.TrimRight(string(b), "\r\n")
		return err
	case password != "":
		b, err := os.ReadFile(password)
		q.Password = strings.TrimRight(string(b), "\r\n")
		return err
	case key != "":
		b, err := os.ReadFile(key)
		q.PublicKey = string(b)
		return err
	}
	return nil
}

// askExplain asks the daemon. It is a PUT because no page of a browser may send one unasked, and a password is no part of
// an URL.
func askExplain(ctx context.Context, url string, q explainQuestion) (answer explainAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	question, err := json.Marshal(q)
	if err != nil {
		return answer, err
	}
	err = askLocal(ctx, http.MethodPut, url, bytes.NewReader(question), func(r io.Reader) error { return json.NewDecoder(r).Decode(&answer) })
	return answer, err
}

func (a explainAnswer) print(w io.Writer) error {
	verdict := "denied"
	if a.Allowed {
		verdict = "allowed"
	}
	line := fmt.Sprintf("%s: %s %s%s", verdict, a.Operation, a.Path, at(a.At))
	if a.To != "" {
		line += fmt.Sprintf(" to %s%s", a.To, at(a.ToAt))
	}
	fmt.Fprintln(w, line)
	var rows [][]string
	for _, r := range a.Rules {
		says := "denies"
		if r.Allowed {
			says = "allows"
		}
		rows = append(rows, []string{r.Kind, says, r.Text})
	}
	return table(w, "RULE\tSAYS\tWHY", rows)
}

func at(where string) string {
	if where == "" {
		return ""
	}
	return " (" + where + ")"
}

// explainError is an answer that is none, with the status that says so.
type explainError struct {
	status int
	text   string
}

func (e *explainError) Error() string { return e.text }

// debugExplain answers askExplain.
func (d *daemon) debugExplain(w http.ResponseWriter, r *http.Request) {
	var q explainQuestion
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 256<<10)).Decode(&q)
	if err != nil {
		err = &explainError{http.StatusBadRequest, "the question is no JSON"}
	}
	var answer explainAnswer
	if err == nil {
		answer, err = d.explain(r.Context(), q)
	}
	var told *explainError
	switch {
	case err == nil:
		d.answerJSON(w, answer)
	case errors.As(err, &told):
		http.Error(w, told.text, told.status)
	default:
		d.log.Error("explain", "error", err.Error())
		http.Error(w, "the catalogue or the identity provider cannot be asked: "+err.Error(), http.StatusBadGateway)
	}
}

func (d *daemon) explain(ctx context.Context, q explainQuestion) (explainAnswer, error) {
	answer := explainAnswer{ServerId: q.ServerId, UserName: q.UserName, Operation: q.Operation}
	s, err := d.db.Server(ctx, q.ServerId)
	if err != nil {
		return answer, known(err)
	}
	grant, err := d.explainGrant(ctx, s, q)
	if errors.Is(err, identity.ErrDenied) {
		answer.Path = q.Path
		answer.Rules = []vfs.Rule{{Kind: "identity", Text: "the identity provider does not let the user in: " + err.Error()}}
		return answer, nil
	}
	if err != nil {
		return answer, err
	}
	view, err := vfs.New(vfs.Home{
		Domain: s.Domain, Type: grant.HomeDirectoryType, Directory: grant.HomeDirectory, Mappings: grant.HomeDirectoryMappings,
		UserName: grant.UserName, Role: grant.Role, Policy: grant.Policy, PosixProfile: grant.PosixProfile,
		SourceIP: q.SourceIp, Now: time.Now,
	}, d.stores)
	if err != nil {
		answer.Path = q.Path
		answer.Rules = []vfs.Rule{{Kind: "home", Text: "no session begins: " + err.Error()}}
		return answer, nil
	}
	answer.Explanation, err = view.Explain(ctx, vfs.Question{Operation: q.Operation, Path: q.Path, To: q.To})
	if errors.Is(err, fs.ErrInvalid) {
		err = &explainError{http.StatusBadRequest, err.Error()}
	}
	return answer, err
}

// known makes what is not in the catalogue an answer.
func known(err error) error {
	var unknown *server.NotFoundError
	if errors.As(err, &unknown) {
		return &explainError{http.StatusNotFound, fmt.Sprintf("there is no %s %s", strings.ToLower(unknown.ResourceType), unknown.Resource)}
	}
	return err
}

// explainGrant is what the user would get: the catalogue's users are known to us, the others to their provider.
func (d *daemon) explainGrant(ctx context.Context, s server.Server, q explainQuestion) (identity.Grant, error) {
	if t := s.IdentityProviderType; t == "" || t == "SERVICE_MANAGED" {
		u, err := d.db.User(ctx, s.ServerId, q.UserName)
		if err != nil {
			return identity.Grant{}, known(err)
		}
		return identity.Grant{
			UserName: u.UserName, Role: u.Role, HomeDirectory: u.HomeDirectory, HomeDirectoryType: u.HomeDirectoryType,
			HomeDirectoryMappings: u.HomeDirectoryMappings, Policy: u.Policy, PosixProfile: u.PosixProfile,
		}, nil
	}
	a := identity.Attempt{Server: s.ServerId, UserName: q.UserName, Protocol: "SFTP", SourceIP: q.SourceIp, Password: q.Password}
	if len(s.Protocols) > 0 && !slices.Contains(s.Protocols, "SFTP") {
		a.Protocol = s.Protocols[0]
	}
	if q.PublicKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(q.PublicKey))
		if err != nil {
			return identity.Grant{}, &explainError{http.StatusBadRequest, "the key is no public key in OpenSSH's form"}
		}
		a.PublicKey = key.Marshal()
	}
	if a.Password == "" && a.PublicKey == nil {
		return identity.Grant{}, &explainError{http.StatusUnprocessableEntity, fmt.Sprintf(
			"users of server %s are known to its identity provider (%s) alone, which answers to a password or a key: give -password-file or -key",
			s.ServerId, s.IdentityProviderType)}
	}
	return d.dispatch.Authenticate(ctx, a)
}

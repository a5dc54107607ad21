package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/transferd/transferd"

// rule says what some rooms never import, and why.
type rule struct {
	rooms  []string // import paths below the module; a trailing /... means the folder and all below it
	except []string // rooms that the rule leaves out
	never  []string // import paths; ours begin with the module's "./"
	why    string
}

// rules is the never-imports list of CONTRIBUTING.md. Only imports of the shipped code count, not those of tests.
func rules() []rule {
	return []rule{
		{
			rooms: []string{"storage/..."},
			never: []string{"./server/...", "./workflow/...", "./hostkeys", "database/sql"},
			why:   "a file store serves protocols, workflows and recovery alike and must not know which",
		},
		{
			rooms: []string{"..."}, except: []string{"storage/s3/..."},
			never: []string{"github.com/aws/aws-sdk-go-v2/service/s3/...", "github.com/aws/aws-sdk-go-v2/service/sts/..."},
			why:   "the S3 SDK's types and errors stay in one room",
		},
		{
			rooms: []string{"..."}, except: []string{"storage/efs"},
			never: []string{"golang.org/x/sys/..."},
			why:   "system calls beyond the standard library belong to the one store that is a disk",
		},
		{
			rooms: []string{"workflow/..."},
			never: []string{"./server/...", "./hostkeys", "github.com/pkg/sftp", "github.com/fclairamb/ftpserverlib", "github.com/riverqueue/...", "database/sql"},
			why:   "what happens after the verdict does not depend on how the file came or on which queue carries it",
		},
		{
			rooms: []string{"..."}, except: []string{"workflow/functions", "server/identity/lambda"},
			never: []string{"github.com/aws/aws-sdk-go-v2/service/lambda/..."},
			why:   "the Lambda SDK's types and errors stay behind whoever calls a function",
		},
		{
			rooms: []string{"..."}, except: []string{"workflow/steps"},
			never: []string{"github.com/ProtonMail/..."},
			why:   "what an OpenPGP message is only the step knows that decrypts one",
		},
		{
			rooms: []string{"hostkeys"},
			never: []string{"./..."},
			why:   "keys are keys, whoever uses them",
		},
		{
			rooms: []string{"server"},
			never: []string{"./...", "net/http", "golang.org/x/crypto/ssh", "database/sql"},
			why:   "the nouns are imported by everybody, so they import nobody",
		},
		{
			rooms: []string{"server/identity/..."},
			never: []string{"./server/session", "./server/vfs", "./storage/...", "./workflow/..."},
			why:   "who somebody is has nothing to do with what they do next",
		},
		{
			rooms: []string{"server/vfs", "server/session"},
			never: []string{
				"./server/sftpd", "./server/ftpd", "./server/db", "./workflow/...", "./hostkeys", "golang.org/x/crypto/ssh", "github.com/pkg/sftp",
				"github.com/fclairamb/ftpserverlib", "github.com/spf13/afero", "database/sql", "github.com/aws/...",
			},
			why: "paths and verdicts are the same for every protocol, store and database",
		},
		{
			rooms: []string{"server/vfs/policy"},
			never: []string{"./...", "net/http", "database/sql"},
			why:   "a policy means the same whoever asks: the control plane when it is set, the vfs when it is used",
		},
		{
			rooms: []string{"server/sftpd", "server/ftpd"},
			never: []string{"./storage/s3/...", "./storage/memory", "./storage/efs", "./workflow/...", "./server/db", "./server/api", "database/sql"},
			why:   "a protocol speaks to the session and to nothing behind it",
		},
		{
			rooms: []string{"server/events"},
			never: []string{"./...", "database/sql"},
			why:   "receivers are told the same way whatever happened and wherever it waits",
		},
		{
			rooms: []string{"server/sftpd"}, never: []string{"./server/ftpd", "github.com/fclairamb/ftpserverlib", "github.com/spf13/afero"},
			why: "the protocols do not know each other",
		},
		{
			rooms: []string{"server/ftpd"}, never: []string{"./server/sftpd", "github.com/pkg/sftp", "golang.org/x/crypto/ssh"},
			why: "the protocols do not know each other",
		},
		{
			rooms: []string{"server/internal/door"},
			never: []string{"./..."},
			why:   "what the protocols share knows none of them, and nothing behind them",
		},
		{
			rooms: []string{"server/proxyproto"},
			never: []string{"./..."},
			why:   "who is behind a proxy is the same question for every protocol",
		},
		{
			rooms: []string{"..."}, except: []string{"server/sftpd", "cmd/transferd"},
			never: []string{"github.com/pkg/sftp"},
			why:   "pkg/sftp is wrapped in one room (cmd's demo is an SFTP client)",
		},
		{
			rooms: []string{"..."}, except: []string{"server/ftpd"},
			never: []string{"github.com/fclairamb/ftpserverlib", "github.com/spf13/afero"},
			why:   "the FTP library is wrapped in one room",
		},
		{
			rooms: []string{"server/api/..."},
			never: []string{"./server/fleet", "./server/session", "./server/sftpd", "./server/ftpd", "./storage/..."},
			why:   "the control plane writes wishes, the fleet reads them",
		},
		{
			rooms: []string{"..."}, except: []string{"server/db/..."},
			never: []string{"github.com/riverqueue/...", "modernc.org/sqlite", "github.com/pressly/goose/...", "github.com/jackc/..."},
			why:   "the database and the queue in it are one room's",
		},
		{
			rooms: []string{"cmd/transferd/internal/apply"},
			never: []string{"./server/...", "./storage/...", "./workflow/...", "./hostkeys"},
			why:   "it is a client of the API like any other",
		},
		{
			rooms: []string{"..."}, except: []string{"cmd/transferd", "storage/s3/...", "server/identity/..."},
			never: []string{
				"./server/db", "./storage/s3/...", "./storage/memory", "./storage/efs", "./server/identity/managed",
				"./server/identity/gateway", "./server/identity/usersfile", "./server/identity/guard", "./workflow/functions",
			},
			why: "implementations are chosen in one place, the wiring",
		},
	}
}

// TestImports holds the rooms apart.
func TestImports(t *testing.T) {
	t.Parallel()
	imports := listImports(t)
	for _, r := range rules() {
		for pkg, deps := range imports {
			if !matchesAny(r.rooms, pkg) || matchesAny(r.except, pkg) {
				continue
			}
			for _, dep := range deps {
				if matchesAny(external(r.never), dep) && dep != module+"/"+pkg {
					t.Errorf("%s imports %s, but %s", pkg, dep, r.why)
				}
			}
		}
	}
}

// TestRoomsAreDocumented: each package says what it is for.
func TestRoomsAreDocumented(t *testing.T) {
	t.Parallel()
	out := goList(t, "{{.ImportPath}}\t{{.Doc}}")
	for line := range strings.Lines(out) {
		pkg, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if strings.TrimSpace(doc) == "" {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func external(patterns []string) []string {
	out := slices.Clone(patterns)
	for i, p := range out {
		if rest, ours := strings.CutPrefix(p, "./"); ours {
			out[i] = module + "/" + rest
		}
	}
	return out
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if p == "..." {
			return true
		}
		if dir, tree := strings.CutSuffix(p, "/..."); tree {
			return path == dir || strings.HasPrefix(path, dir+"/")
		}
		return path == p
	})
}

// listImports maps each of our packages (below the module) to what it imports.
func listImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for line := range strings.Lines(goList(t, `{{.ImportPath}} {{join .Imports " "}}`)) {
		f := strings.Fields(line)
		imports[strings.TrimPrefix(f[0], module+"/")] = f[1:]
	}
	if len(imports) < 8 {
		t.Fatalf("go list found only %d packages", len(imports))
	}
	return imports
}

func goList(t *testing.T, format string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", format, module+"/...")
	cmd.Stderr = &strings.Builder{}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, cmd.Stderr)
	}
	return string(out)
}

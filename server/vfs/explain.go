package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/transferd/transferd/server/vfs/policy"
)

// Question is something that a client might do.
type Question struct {
	Operation string // one of Operations
	Path      string
	To        string // of a rename
}

// Explanation says whether the home and the session policy let the user do it, or on a file system the kernel. A bucket
// is not asked: what stands at the path, and what the role lets the user do, may refuse it still.
type Explanation struct {
	Allowed bool
	Path    string // as the client sees it
	At      string `json:",omitempty"` // where it lies, /bucket/key
	To      string `json:",omitempty"`
	ToAt    string `json:",omitempty"`
	Rules   []Rule // in the order in which they were asked; the last one decided if it is denied
}

// Rule is what had a say.
type Rule struct {
	Kind    string // home, mapping, policy or posix
	Allowed bool
	Text    string
	// The statement of the policy, if one decided.
	Statement *int   `json:",omitempty"`
	Sid       string `json:",omitempty"`
}

// needed are the operations that Explain knows, and what of the policy each needs. A stat needs one of several things.
func needed() map[string][]policy.Operation {
	return map[string][]policy.Operation{
		"get": {policy.Get}, "put": {policy.Put}, "append": {policy.Change}, "list": {policy.List}, "mkdir": {policy.Mkdir},
		"delete": {policy.Delete}, "rmdir": {policy.Rmdir}, "rename": {policy.RenameFrom}, "stat": nil,
	}
}

// Operations are what Explain knows.
func Operations() []string {
	return []string{"put", "append", "get", "list", "stat", "mkdir", "delete", "rmdir", "rename"}
}

// Explain answers a question. The error wraps fs.ErrInvalid if it is none.
func (f *FS) Explain(ctx context.Context, q Question) (Explanation, error) {
	needs, known := needed()[q.Operation]
	if !known || (q.To != "") != (q.Operation == "rename") {
		return Explanation{}, fmt.Errorf("operation %q: %w", q.Operation, fs.ErrInvalid)
	}
	x := &Explanation{Allowed: true, Path: f.RealPath(q.Path)}
	at, ok := x.reach(f, q.Operation, q.Path)
	x.At = f.whereis(at)
	if !ok {
		return *x, nil
	}
	to := at
	if q.Operation == "rename" {
		x.To = f.RealPath(q.To)
		to, ok = x.reach(f, q.Operation, q.To)
		x.ToAt = f.whereis(to)
		if ok && to.store != at.store {
			ok = x.rule(Rule{Kind: "home", Text: "a rename stays in one bucket or file system"})
		}
		if !ok {
			return *x, nil
		}
	}
	switch {
	case f.domain == domainEFS:
		if err := x.posix(ctx, f, q.Operation, at, to); err != nil {
			return Explanation{}, err
		}
	case at.kind == synthetic: // which no store has
	case f.policy == nil:
		x.rule(Rule{Kind: "policy", Allowed: true, Text: "the user has no session policy: what the role may do, the user may do"})
	case q.Operation == "stat":
		x.stat(f, at)
	default:
		x.needs(f, at, needs)
		if q.Operation == "rename" && x.Allowed {
			x.needs(f, to, []policy.Operation{policy.RenameTo})
		}
	}
	return *x, nil
}

// rule adds a rule and reports whether it allows.
func (x *Explanation) rule(r Rule) bool {
	x.Rules = append(x.Rules, r)
	x.Allowed = r.Allowed
	return r.Allowed
}

func (f *FS) whereis(at place) string {
	if at.store == "" {
		return ""
	}
	return path.Join("/", at.store, at.name)
}

// reach says what the home makes of a path.
func (x *Explanation) reach(f *FS, operation, p string) (place, bool) {
	at, err := f.resolve(operation, p)
	kind, entry := f.entry(f.RealPath(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return at, x.rule(Rule{Kind: "home", Text: fmt.Sprintf("the home does not reach %s: no such file", f.RealPath(p))})
	case err != nil:
		return at, x.rule(Rule{Kind: "home", Text: fmt.Sprintf("%q is no name that a file can have", p)})
	case at.kind == synthetic:
		looks := operation == "list" || operation == "stat"
		return at, x.rule(Rule{Kind: "mapping", Allowed: looks, Text: at.client + " is above the mappings: it is listed, and nothing is written there"})
	}
	text := fmt.Sprintf("%s is %s", entry, f.whereis(f.grants.entries[entry]))
	refused := ""
	if at.kind == mappedDir && !slices.Contains([]string{"list", "stat"}, operation) {
		refused = ", a directory of the home itself: it cannot be " + map[string]string{"get": "read as a file", "put": "written as a file",
			"append": "written as a file", "mkdir": "made again", "delete": "taken away", "rmdir": "taken away", "rename": "moved or replaced"}[operation]
	}
	return at, x.rule(Rule{Kind: kind, Allowed: refused == "", Text: text + refused})
}

// entry is the part of the grant that has a path, and what kind of rule it is.
func (f *FS) entry(client string) (kind, entry string) {
	kind = "mapping"
	if f.home.Type != typeLogical {
		kind = "home"
	}
	for entry = client; entry != "/"; entry = parent(entry) {
		if _, ok := f.grants.entries[entry]; ok {
			break
		}
	}
	return kind, entry
}

// needs asks the policy.
func (x *Explanation) needs(f *FS, at place, what []policy.Operation) {
	for _, op := range what {
		for _, r := range policy.Needs(op, at.store, at.name) {
			if !x.rule(policyRule(r, f.policy.Evaluate(f.subject(), r))) {
				return
			}
		}
	}
}

func policyRule(r policy.Request, d policy.Decision) Rule {
	rule := Rule{Kind: "policy", Allowed: d.Allowed, Text: fmt.Sprintf("%v: %v", r, d), Sid: d.Sid}
	if d.Statement >= 0 {
		rule.Statement = &d.Statement
	}
	return rule
}

// stat lists what would show the user something at the path (statLimited): one is enough.
func (x *Explanation) stat(f *FS, at place) {
	allowed := false
	if at.name == "" || at.kind != mappedFile && f.named(at) {
		x.rule(Rule{Kind: "home", Allowed: true, Text: "that the directory is there is no secret: the home names it"})
		allowed = true
	}
	above := place{store: at.store, name: path.Dir(at.name)}
	if above.name == "." {
		above.name = ""
	}
	for _, look := range []struct {
		at    place
		op    policy.Operation
		shows string
	}{{above, policy.List, "shows whatever is there"}, {at, policy.Get, "shows a file"}, {at, policy.List, "shows a directory"}} {
		for _, r := range policy.Needs(look.op, look.at.store, look.at.name) {
			rule := policyRule(r, f.policy.Evaluate(f.subject(), r))
			rule.Text += " (" + look.shows + ")"
			allowed = x.rule(rule) || allowed
		}
	}
	x.Allowed = allowed
}

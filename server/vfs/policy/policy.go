// Package policy reads session policies and says what they allow.
//
// A session policy is an IAM policy document in a user's Policy. It takes away from what the user's role may do: what
// no statement allows is denied, and a statement that denies wins over every one that allows (Transfer Family user guide,
// "Creating a session policy for an Amazon S3 bucket"; IAM user guide, "Policy evaluation logic"). The grammar is that of
// the IAM user guide, "Grammar of the IAM JSON policy language", without what session policies do not have.
//
// What AWS would know and we do not, such as tags of a principal, is in doubt. Doubt never opens anything: a statement in
// doubt denies if it denies, and allows nothing if it allows. A Decision names what was in doubt.
//
// It knows nothing of protocols, sessions, paths as clients see them, stores or the network.
package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxLength is how many characters a policy may have (API model, shape Policy).
const MaxLength = 2048

// The versions of the policy language. Without a Version it is the old one, in which ${…} is no variable (IAM user guide,
// "IAM JSON policy elements: Version").
const (
	version2008 = "2008-10-17"
	version2012 = "2012-10-17"
)

// SyntaxError says where a document is no session policy, and why.
type SyntaxError struct {
	At      string // such as Statement[0].Action; "" for the whole
	Problem string
}

func (e *SyntaxError) Error() string {
	if e.At == "" {
		return e.Problem
	}
	return e.At + " " + e.Problem
}

func syntax(at, format string, a ...any) error {
	return &SyntaxError{At: at, Problem: fmt.Sprintf(format, a...)}
}

// Policy is a document that was understood. It never changes.
type Policy struct {
	document   any // as it was read, for Document
	variables  bool
	statements []statement
}

// statement is one element of Statement.
type statement struct {
	sid         string
	deny        bool
	actions     list
	notAction   bool
	resources   list
	notResource bool
	conditions  []condition
}

// Parse reads a document. What is refused here, IAM calls malformed: the role of such a user could not be assumed.
func Parse(text string) (*Policy, error) {
	if n := utf8.RuneCountInString(text); n > MaxLength {
		return nil, syntax("", "the policy has %d characters, and may have %d", n, MaxLength)
	}
	document, err := decode(text)
	if err != nil {
		return nil, err
	}
	top, ok := document.(object)
	if !ok {
		return nil, syntax("", "the policy must be a JSON object, not the name or ARN of a policy")
	}
	p := &Policy{document: document}
	if err := top.only("", "Version", "Id", "Statement"); err != nil {
		return nil, err
	}
	if p.variables, err = version(top); err != nil {
		return nil, err
	}
	if id, there := top.get("Id"); there {
		if _, ok := id.(string); !ok {
			return nil, syntax("Id", "must be a string")
		}
	}
	return p, p.readStatements(top)
}

func version(top object) (variables bool, err error) {
	switch v, there := top.get("Version"); {
	case !there, v == version2008:
		return false, nil
	case v == version2012:
		return true, nil
	}
	return false, syntax("Version", "must be %s or %s", version2012, version2008)
}

// readStatements reads Statement, which is a list or a single statement.
func (p *Policy) readStatements(top object) error {
	value, there := top.get("Statement")
	if !there {
		return syntax("", "the policy has no Statement")
	}
	all, several := value.([]any)
	if !several {
		all = []any{value}
	}
	for i, v := range all {
		at := fmt.Sprintf("Statement[%d]", i)
		o, ok := v.(object)
		if !ok {
			return syntax(at, "must be an object")
		}
		s, err := p.readStatement(at, o)
		if err != nil {
			return err
		}
		if s.sid != "" && slices.ContainsFunc(p.statements, func(other statement) bool { return other.sid == s.sid }) {
			return syntax(at+".Sid", "%q is the Sid of another statement too", s.sid)
		}
		p.statements = append(p.statements, s)
	}
	return nil
}

// sidPattern is "Statement IDs (SID) must be alpha-numeric".
var sidPattern = regexp.MustCompile(`^[A-Za-z0-9]*$`)

func (p *Policy) readStatement(at string, o object) (s statement, err error) {
	for _, name := range []string{"Principal", "NotPrincipal"} {
		if _, there := o.get(name); there {
			return s, syntax(at+"."+name, "is for policies of resources: a session policy is about its user alone")
		}
	}
	if err := o.only(at, "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"); err != nil {
		return s, err
	}
	if sid, there := o.get("Sid"); there {
		var ok bool
		if s.sid, ok = sid.(string); !ok || !sidPattern.MatchString(s.sid) {
			return s, syntax(at+".Sid", "must be letters and digits")
		}
	}
	switch effect, _ := o.get("Effect"); effect {
	case "Allow":
	case "Deny":
		s.deny = true
	default:
		return s, syntax(at+".Effect", "must be Allow or Deny")
	}
	if s.actions, s.notAction, err = eitherOr(at, o, "Action", p.readAction); err != nil {
		return s, err
	}
	if s.resources, s.notResource, err = eitherOr(at, o, "Resource", p.readResource); err != nil {
		return s, err
	}
	s.conditions, err = p.readConditions(at+".Condition", o)
	return s, err
}

// eitherOr reads an element or the one that means its opposite; a statement has exactly one of them.
func eitherOr(at string, o object, name string, read func(at, value string) (template, error)) (l list, not bool, err error) {
	value, is := o.get(name)
	opposite, not := o.get("Not" + name)
	switch {
	case is && not:
		return nil, false, syntax(at, "has both %s and Not%s", name, name)
	case !is && !not:
		return nil, false, syntax(at, "has neither %s nor Not%s", name, name)
	case not:
		value, name = opposite, "Not"+name
	}
	texts, ok := texts(value)
	if !ok || len(texts) == 0 {
		return nil, false, syntax(at+"."+name, "must be a string or a list of strings that is not empty")
	}
	for _, text := range texts {
		t, err := read(at+"."+name, text)
		if err != nil {
			return nil, false, err
		}
		l = append(l, t)
	}
	return l, not, nil
}

// actionPattern is a service's prefix and a name, each with wildcards, or everything. An action of another service is
// fine and means nothing here: roles that decrypt with KMS have policies that say so.
var actionPattern = regexp.MustCompile(`^(\*|[A-Za-z0-9*?-]+:[A-Za-z0-9*?]+)$`)

// readAction reads an action; case does not matter ("IAM JSON policy elements: Action").
func (p *Policy) readAction(at, value string) (template, error) {
	if !actionPattern.MatchString(value) {
		return nil, syntax(at, "%q must be * or such as s3:GetObject", value)
	}
	return compile(strings.ToLower(value), wildcards|literalVariables)
}

// readResource reads an ARN. Buckets have the same names in all partitions, and whoever runs a daemon has no partition:
// that of the document does not matter.
func (p *Policy) readResource(at, value string) (template, error) {
	if value == "*" {
		return compile(value, wildcards)
	}
	for _, partition := range []string{"arn:aws-cn:", "arn:aws-us-gov:"} {
		if rest, ok := strings.CutPrefix(value, partition); ok {
			value = "arn:aws:" + rest
		}
	}
	t, err := compile(value, p.how(wildcards))
	if err != nil {
		return nil, syntax(at, "%q: %v", value, err)
	}
	if !strings.HasPrefix(value, "arn:") || !t.isARN() {
		return nil, syntax(at, "%q must be * or an ARN such as arn:aws:s3:::bucket/key", value)
	}
	return t, nil
}

// how adds how the document's version reads variables.
func (p *Policy) how(h reading) reading {
	if p.variables {
		return h
	}
	return h | oldVersion
}

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// transferPrefix begins the names of Transfer's own variables.
const transferPrefix = "transfer:"

// Subject is whose policy it is. The names of the variables are those of the Transfer Family user guide, "Creating a
// session policy for an Amazon S3 bucket".
type Subject struct {
	UserName string
	// Home is the home directory without its leading slash; "" if there is none that a variable could name: with a
	// LOGICAL home the three Home variables have no value (same page).
	Home     string
	SourceIP string
	Now      time.Time
}

// variable is the value of one of Transfer's variables.
func (s Subject) variable(name string) (string, bool) {
	bucket, folder, _ := strings.Cut(s.Home, "/")
	switch strings.TrimPrefix(name, transferPrefix) {
	case "username":
		return s.UserName, s.UserName != ""
	case "homebucket":
		return bucket, bucket != ""
	case "homefolder":
		// Without a slash at its end, so that the page's own "${transfer:HomeFolder}/*" is right for a home with one.
		return strings.TrimSuffix(folder, "/"), bucket != ""
	case "homedirectory":
		// With the slash, if the home has one: "this policy example assumes that … home directories … include a trailing
		// slash" (same page).
		return s.Home, bucket != ""
	}
	return "", false
}

// Request is one request to S3.
type Request struct {
	Action string // such as s3:GetObject
	Bucket string
	Key    string // "" for a request to the bucket
	Prefix string // of s3:ListBucket, whose delimiter is always "/"
}

// ARN is the resource of the request.
func (r Request) ARN() string {
	if r.Key == "" {
		return "arn:aws:s3:::" + r.Bucket
	}
	return "arn:aws:s3:::" + r.Bucket + "/" + r.Key
}

func (r Request) String() string {
	if r.Action == listBucket {
		return fmt.Sprintf("%s on %s with s3:prefix %q", r.Action, r.ARN(), r.Prefix)
	}
	return r.Action + " on " + r.ARN()
}

// Decision is what a policy says to a request.
type Decision struct {
	Allowed   bool
	Statement int      // the index of the statement that decided; -1 if none did, which denies
	Sid       string   // its Sid, if it has one
	Doubts    []string // what could not be evaluated and might have decided otherwise
}

// String names what decided.
func (d Decision) String() string {
	effect := "denied"
	if d.Allowed {
		effect = "allowed"
	}
	text := effect + ": no statement allows it"
	if d.Statement >= 0 {
		text = fmt.Sprintf("%s by Statement[%d]", effect, d.Statement)
		if d.Sid != "" {
			text += fmt.Sprintf(" (Sid %s)", d.Sid)
		}
	}
	if len(d.Doubts) > 0 {
		text += "; not evaluated: " + strings.Join(d.Doubts, ", ")
	}
	return text
}

// answer has three values. Of a statement's parts the worst counts.
type answer int

const (
	no answer = iota
	doubt
	yes
)

func (a answer) not() answer { return yes - a }

// evaluation is one request on its way through a policy.
type evaluation struct {
	subject Subject
	request Request
	doubts  []string
}

func (e *evaluation) doubt(what string) {
	if !slices.Contains(e.doubts, what) {
		e.doubts = append(e.doubts, what)
	}
}

// Evaluate decides about a request. An explicit denial wins, and what nothing allows is denied.
func (p *Policy) Evaluate(s Subject, r Request) Decision {
	out := Decision{Statement: -1}
	var doubts []string
	for i, st := range p.statements {
		e := &evaluation{subject: s, request: r}
		applies := e.applies(st)
		if applies == doubt {
			doubts = append(doubts, e.doubts...)
		}
		switch {
		case st.deny && applies != no:
			if applies == yes {
				e.doubts = nil
			}
			return Decision{Statement: i, Sid: st.sid, Doubts: e.doubts}
		case !st.deny && applies == yes && !out.Allowed:
			out = Decision{Allowed: true, Statement: i, Sid: st.sid}
		}
	}
	if !out.Allowed {
		slices.Sort(doubts)
		out.Doubts = slices.Compact(doubts)
	}
	return out
}

// applies says whether a statement is about the request: its action, its resource and all of its conditions.
func (e *evaluation) applies(s statement) answer {
	out := e.part(s.actions, s.notAction, strings.ToLower(e.request.Action))
	if out == no {
		return no
	}
	out = min(out, e.part(s.resources, s.notResource, e.request.ARN()))
	for _, c := range s.conditions {
		if out == no {
			return no // what follows is not in doubt but of no consequence
		}
		out = min(out, c.holds(e))
	}
	return out
}

func (e *evaluation) part(l list, not bool, text string) answer {
	if not {
		return l.matches(e, text).not()
	}
	return l.matches(e, text)
}

// variable is the value of a variable in the policy: one of Transfer's, or that of a condition key.
func (e *evaluation) variable(name string) (string, bool) {
	if strings.HasPrefix(name, transferPrefix) {
		return e.subject.variable(name)
	}
	value, there := e.key(name)
	return value, there == yes
}

// key is the value of a condition key, no if a request of this kind has none, doubt if AWS might know it and we do not.
// AWS global condition context keys; "Actions, resources, and condition keys for Amazon S3".
func (e *evaluation) key(name string) (string, answer) {
	listing := no
	if e.request.Action == listBucket {
		listing = yes
	}
	switch name {
	case "s3:prefix":
		return e.request.Prefix, listing
	case "s3:delimiter":
		return "/", listing
	case "s3:max-keys", "s3:versionid":
		return "", no // our requests are without
	case "aws:username":
		return "", no // "you can't use the ${aws:Username} variable": a role has none
	case "aws:currenttime":
		return e.subject.Now.UTC().Format(time.RFC3339), yes
	case "aws:epochtime":
		return strconv.FormatInt(e.subject.Now.Unix(), 10), yes
	case "aws:sourceip":
		if _, err := netip.ParseAddr(e.subject.SourceIP); err != nil {
			return "", doubt
		}
		return e.subject.SourceIP, yes
	}
	return "", doubt
}

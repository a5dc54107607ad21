package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/vfs/policy"
)

// The model is the rules once more, written down as they stand in the IAM user guide and with other means: regular
// expressions for wildcards, text replacement for variables, and no third value: what is in doubt is whatever opens less.
type modelStatement struct {
	Effect      string
	Action      []string                       `json:",omitempty"`
	NotAction   []string                       `json:",omitempty"`
	Resource    []string                       `json:",omitempty"`
	NotResource []string                       `json:",omitempty"`
	Condition   map[string]map[string][]string `json:",omitempty"`
}

type model struct {
	Version   string `json:",omitempty"`
	Statement []modelStatement
}

func (m model) allows(s policy.Subject, r policy.Request) bool {
	allowed := false
	for _, st := range m.Statement {
		if !st.applies(s, r) {
			continue
		}
		if st.Effect == "Deny" {
			return false
		}
		allowed = true
	}
	return allowed
}

func (st modelStatement) applies(s policy.Subject, r policy.Request) bool {
	deny := st.Effect == "Deny"
	match := func(patterns []string, text string, doubt bool) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			p, known := substitute(p, s, r)
			return known && modelLike(p, text) || !known && doubt
		})
	}
	if st.Action != nil && !match(lower(st.Action), strings.ToLower(r.Action), false) || match(lower(st.NotAction), strings.ToLower(r.Action), false) {
		return false
	}
	if st.Resource != nil && !match(st.Resource, r.ARN(), deny) || match(st.NotResource, r.ARN(), !deny) {
		return false
	}
	for operator, keys := range st.Condition {
		for key, values := range keys {
			if !modelCondition(operator, strings.ToLower(key), values, deny, s, r) {
				return false
			}
		}
	}
	return true
}

func lower(all []string) (out []string) {
	for _, s := range all {
		out = append(out, strings.ToLower(s))
	}
	return out
}

// Private use stands for the characters that a value or an escape has as itself.
var (
	escape   = strings.NewReplacer("*", "\ue000", "?", "\ue001", "$", "\ue002")
	unescape = strings.NewReplacer("\ue000", "*", "\ue001", "?", "\ue002", "$")
	named    = regexp.MustCompile(`\$\{([^}]*)\}`)
)

// substitute puts in values, whose wildcards are characters; false if there is none.
func substitute(text string, s policy.Subject, r policy.Request) (string, bool) {
	known := true
	return named.ReplaceAllStringFunc(text, func(v string) string {
		name := strings.ToLower(v[2 : len(v)-1])
		bucket, folder, _ := strings.Cut(s.Home, "/")
		value, ok := map[string]string{
			"*": "*", "?": "?", "$": "$", "transfer:username": s.UserName, "transfer:homebucket": bucket,
			"transfer:homefolder": strings.TrimSuffix(folder, "/"), "transfer:homedirectory": s.Home,
		}[name]
		if name == "s3:prefix" && r.Action == "s3:ListBucket" {
			value, ok = r.Prefix, true
		}
		if strings.HasPrefix(name, "transfer:home") && s.Home == "" {
			ok = false
		}
		known = known && ok
		return escape.Replace(value)
	}), known
}

func modelLike(pattern, text string) bool {
	p := regexp.QuoteMeta(pattern)
	p = strings.NewReplacer(`\*`, `(?s:.*)`, `\?`, `(?s:.)`).Replace(p)
	return regexp.MustCompile(`^(?:` + unescapeQuoted(p) + `)$`).MatchString(text)
}

func unescapeQuoted(p string) string {
	return strings.NewReplacer("\ue000", `\*`, "\ue001", `\?`, "\ue002", `\$`).Replace(p)
}

func modelCondition(operator, key string, values []string, deny bool, s policy.Subject, r policy.Request) bool {
	got, state := "", "absent"
	switch {
	case key == "s3:prefix" && r.Action == "s3:ListBucket":
		got, state = r.Prefix, "present"
	case key == "aws:sourceip":
		got, state = s.SourceIP, "present"
	case key == "aws:userid":
		return deny
	}
	if operator == "Null" {
		return slices.ContainsFunc(values, func(v string) bool { return (v == "true") == (state == "absent") })
	}
	all, any, ifExists := strings.HasPrefix(operator, "ForAllValues:"), strings.HasPrefix(operator, "ForAnyValue:"), strings.HasSuffix(operator, "IfExists")
	operator = strings.TrimSuffix(operator[strings.Index(operator, ":")+1:], "IfExists")
	negated := strings.Contains(operator, "Not")
	operator = strings.Replace(operator, "Not", "", 1)
	if state == "absent" {
		return all || !any && (negated || ifExists)
	}
	matched := slices.ContainsFunc(values, func(v string) bool {
		v, known := substitute(v, s, r)
		if !known {
			return deny != negated
		}
		switch operator {
		case "StringEquals":
			return unescape.Replace(v) == got
		case "StringEqualsIgnoreCase":
			return strings.EqualFold(unescape.Replace(v), got)
		case "StringLike":
			return modelLike(v, got)
		case "IpAddress":
			_, network, err := net.ParseCIDR(v)
			if err != nil {
				return net.ParseIP(v).Equal(net.ParseIP(got))
			}
			return network.Contains(net.ParseIP(got))
		}
		panic(operator)
	})
	return matched != negated
}

// generate makes a document of the words that make a difference.
func generate(r *rand.Rand) model {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	some := func(words ...string) (out []string) {
		for range 1 + r.IntN(2) {
			out = append(out, pick(words...))
		}
		return out
	}
	m := model{Version: "2012-10-17"}
	for range r.IntN(4) {
		st := modelStatement{Effect: pick("Allow", "Allow", "Deny")}
		actions := some("s3:GetObject", "s3:PutObject", "s3:*", "*", "s3:Get*", "s3:?utobject", "S3:LISTBUCKET", "kms:*", "s3:L*t")
		resources := some("*", "arn:aws:s3:::*", "arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*", "arn:aws:s3:::bucket/a?b", "arn:aws:s3:::bucket/${*}",
			"arn:aws:s3:::bucket/${Transfer:UserName}/*", "arn:aws:s3:::${transfer:HomeDirectory}*", "arn:aws:s3:::bucket/${aws:username}", "arn:aws:s3:::${transfer:HomeBucket}")
		st.Action, st.Resource = actions, resources
		if r.IntN(4) == 0 {
			st.Action, st.NotAction = nil, actions
		}
		if r.IntN(4) == 0 {
			st.Resource, st.NotResource = nil, resources
		}
		for range r.IntN(3) {
			operator := pick("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase",
				"IpAddress", "NotIpAddress", "Null")
			key, values := pick("s3:prefix", "S3:Prefix", "aws:username", "aws:userid"), some("", "a/", "A/", "*", "anna/*", "${transfer:UserName}/", "${transfer:HomeFolder}/*", "${s3:prefix}", "${aws:userid}")
			switch {
			case operator == "Null":
				values = some("true", "false")
			case strings.Contains(operator, "IpAddress"):
				key, values = "aws:SourceIp", some("192.0.2.0/24", "192.0.2.7", "2001:db8::/32", "198.51.100.1")
			}
			if operator != "Null" {
				operator = pick("", "", "ForAllValues:", "ForAnyValue:") + operator + pick("", "", "IfExists")
			}
			st.Condition = map[string]map[string][]string{operator: {key: values}}
		}
		m.Statement = append(m.Statement, st)
	}
	return m
}

// TestModel: this package and the model decide alike, on documents and requests made at random.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	allowed, total := 0, 0
	for range 800 {
		m := generate(r)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		document := strings.Replace(string(text), `"Statement":null`, `"Statement":[]`, 1)
		p, err := policy.Parse(document)
		if err != nil {
			t.Fatalf("%s: %v", document, err)
		}
		for range 6 {
			s := policy.Subject{UserName: "anna", Home: []string{"", "bucket/home/anna", "bucket/a/", "bucket", "bucket/*"}[r.IntN(5)],
				SourceIP: []string{"192.0.2.7", "192.0.2.8", "2001:db8::1"}[r.IntN(3)]}
			request := policy.Request{Action: []string{"s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject"}[r.IntN(4)], Bucket: []string{"bucket", "other"}[r.IntN(2)]}
			if request.Action == "s3:ListBucket" {
				request.Prefix = []string{"", "a/", "anna/", "anna/x/", "home/anna/", "*"}[r.IntN(6)]
			} else {
				request.Key = []string{"a", "a/b", "axb", "anna/x", "home/anna", "home/anna/x", "*", "a\nb"}[r.IntN(8)]
			}
			d := p.Evaluate(s, request)
			if want := m.allows(s, request); d.Allowed != want {
				t.Fatalf("seed %d: %s\n%v of %+v: got %v, the model says %v", seed, document, request, s, d, want)
			}
			total++
			if d.Allowed {
				allowed++
			}
		}
	}
	if allowed < total/20 || allowed > total*19/20 {
		t.Errorf("%d of %d allowed: these documents say little", allowed, total)
	}
}

// FuzzParse: no text makes the parser or a decision fail; what it takes is JSON that says everything once; and the
// document for STS decides as the user's own does.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{awsExample, statements(``), when(`{"StringLike":{"s3:prefix":["a*","${transfer:HomeFolder}"]},"Bool":{"aws:x":true}}`),
		when(`{"ForAnyValue:StringNotEqualsIfExists":{"s3:delimiter":"/"}}`), `{"Statement":{"Effect":"Deny","NotAction":"s3:*","NotResource":"*"}}`,
		when(`{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},"NumericLessThan":{"aws:EpochTime":1e3},"DateEquals":{"aws:CurrentTime":"2026"}}`),
		statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${*}${aws:username, 'a''b'}${$}"}`), `{"a":1,"a":2}`, statements(`{"Effect":"Allow","Action":"*","Resource":"arn::::${transfer:HomeBucket}"}`), "{\"Statement\":[]}\x00", `[[[[`} {
		f.Add(seed, "home/anna/x")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := policy.Parse(text)
		if err != nil || len(name) > 1024 { // no key is longer
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("taken, and no JSON: %q", text)
		}
		document, err := p.Document(anna)
		if err != nil {
			return
		}
		q, err := policy.Parse(document)
		if err != nil {
			if strings.Contains(err.Error(), fmt.Sprint(policy.MaxLength)) {
				return // the values made it too long
			}
			t.Fatalf("%q became %q: %v", text, document, err)
		}
		for _, op := range []policy.Operation{policy.Get, policy.Put, policy.Change, policy.List, policy.Mkdir, policy.Delete, policy.Rmdir, policy.RenameFrom, "other"} {
			for _, r := range policy.Needs(op, "bucket", name) {
				if a, b := p.Evaluate(anna, r), q.Evaluate(anna, r); a.Allowed != b.Allowed || a.Statement != b.Statement {
					t.Fatalf("%v: %v, and %v as %s", r, a, b, document)
				}
			}
		}
	})
}

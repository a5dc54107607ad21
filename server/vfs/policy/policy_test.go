package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server/vfs/policy"
)

var anna = policy.Subject{
	UserName: "anna", Home: "bucket/home/anna/", SourceIP: "192.0.2.7",
	Now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
}

func get(key string) policy.Request {
	return policy.Request{Action: "s3:GetObject", Bucket: "bucket", Key: key}
}

func list(prefix string) policy.Request {
	return policy.Request{Action: "s3:ListBucket", Bucket: "bucket", Prefix: prefix}
}

// statements makes a document of the current version.
func statements(s string) string { return `{"Version":"2012-10-17","Statement":[` + s + `]}` }

// when is a document that allows what a condition lets through.
func when(condition string) string {
	return statements(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":` + condition + `}`)
}

// awsExample is in the form of the user guide's page on session policies.
const awsExample = `{"Version":"2012-10-17","Statement":[
	{"Sid":"AllowListingOfUserFolder","Action":["s3:ListBucket"],"Effect":"Allow","Resource":["arn:aws:s3:::${transfer:HomeBucket}"],
	 "Condition":{"StringLike":{"s3:prefix":["${transfer:HomeFolder}/*","${transfer:HomeFolder}"]}}},
	{"Sid":"HomeDirObjectAccess","Effect":"Allow","Action":["s3:PutObject","s3:GetObject","s3:DeleteObject","s3:GetObjectACL"],
	 "Resource":"arn:aws:s3:::${transfer:HomeDirectory}*"}]}`

func TestEvaluate(t *testing.T) {
	t.Parallel()
	allowHome := `{"Sid":"Home","Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::bucket/home/*"}`
	for _, c := range []struct {
		name, document string
		request        policy.Request
		want           string // of Decision.String
	}{
		{"example, own file", awsExample, get("home/anna/x"), "allowed by Statement[1] (Sid HomeDirObjectAccess)"},
		{"example, file of another", awsExample, get("home/anna2"), "denied: no statement allows it"},
		{"example, own directory", awsExample, list("home/anna/"), "allowed by Statement[0] (Sid AllowListingOfUserFolder)"},
		{"example, below", awsExample, list("home/anna/x/y/"), "allowed by Statement[0] (Sid AllowListingOfUserFolder)"},
		{"example, above", awsExample, list("home/"), "denied: no statement allows it"},
		{"example, root", awsExample, list(""), "denied: no statement allows it"},
		{"nothing", statements(``), get("x"), "denied: no statement allows it"},
		{"single statement", `{"Statement":` + allowHome + `}`, get("home/x"), "allowed by Statement[0] (Sid Home)"},
		{"deny after allow", statements(allowHome + `,{"Effect":"Deny","Action":"s3:Get*","Resource":"*"}`), get("home/x"), "denied by Statement[1]"},
		{"deny before allow", statements(`{"Effect":"Deny","Action":"s3:Get*","Resource":"*"},` + allowHome), get("home/x"), "denied by Statement[0]"},
		{"deny of another action", statements(`{"Effect":"Deny","Action":"s3:Put*","Resource":"*"},` + allowHome), get("home/x"), "allowed by Statement[1] (Sid Home)"},
		{"bucket is no object", statements(allowHome), list("home/"), "denied: no statement allows it"},
		{"object is no bucket", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket"}`), get("x"), "denied: no statement allows it"},
		{"other bucket", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucke/*"}`), get("x"), "denied: no statement allows it"},
		{"action without case", statements(`{"Effect":"Allow","Action":"S3:gETobject","Resource":"*"}`), get("x"), "allowed by Statement[0]"},
		{"question mark in an action", statements(`{"Effect":"Allow","Action":"s3:?etObject","Resource":"*"}`), get("x"), "allowed by Statement[0]"},
		{"other service", statements(`{"Effect":"Allow","Action":["kms:Decrypt","sqs:*"],"Resource":"*"}`), get("x"), "denied: no statement allows it"},
		{"part of an action", statements(`{"Effect":"Allow","Action":"s3:GetObjec","Resource":"*"}`), get("x"), "denied: no statement allows it"},
		{"resource with case", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/X"}`), get("x"), "denied: no statement allows it"},
		{"star crosses slashes", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/*/z"}`), get("x/y/z"), "allowed by Statement[0]"},
		{"question mark is one rune", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/?"}`), get("ä"), "allowed by Statement[0]"},
		{"another partition", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws-cn:s3:::bucket/*"}`), get("x"), "allowed by Statement[0]"},
		{"NotAction", statements(`{"Effect":"Allow","NotAction":"s3:Get*","Resource":"*"}`), get("x"), "denied: no statement allows it"},
		{"NotAction of others", statements(`{"Effect":"Allow","NotAction":["s3:Put*","s3:Delete*"],"Resource":"*"}`), get("x"), "allowed by Statement[0]"},
		{"NotResource", statements(`{"Effect":"Deny","Action":"s3:GetObject","NotResource":"arn:aws:s3:::bucket/*/"},{"Effect":"Allow","Action":"*","Resource":"*"}`), get("x"), "denied by Statement[0]"},
		{"NotResource of a marker", statements(`{"Effect":"Deny","Action":"s3:GetObject","NotResource":"arn:aws:s3:::bucket/*/"},{"Effect":"Allow","Action":"*","Resource":"*"}`), get("x/"), "allowed by Statement[1]"},
		{"user name", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/${Transfer:username}/*"}`), get("anna/x"), "allowed by Statement[0]"},
		{"variable of the old version", `{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/${transfer:UserName}/*"}}`, get("anna/x"), "allowed by Statement[0]"},
		{"IAM's variable of the old version", `{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/${aws:username}"}}`, get("${aws:username}"), "allowed by Statement[0]"},
		{"variable without a value", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/${aws:username}/*"}`), get("anna/x"), "denied: no statement allows it; not evaluated: variable ${aws:username}"},
		{"denial by a variable without a value", statements(allowHome + `,{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::bucket/${transfer:nothing}"}`), get("home/x"), "denied by Statement[1]; not evaluated: variable ${transfer:nothing}"},
		{"variable with a default", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/${aws:username, 'it''s'}"}`), get("it's"), "allowed by Statement[0]"},
		{"escaped star", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/a${*}${?}${$}"}`), get("axxx"), "denied: no statement allows it"},
		{"escaped characters themselves", statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/a${*}${?}${$}"}`), get("a*?$"), "allowed by Statement[0]"},
		{"condition in doubt", when(`{"StringEquals":{"aws:PrincipalTag/team":"x"}}`), get("x"), "denied: no statement allows it; not evaluated: condition key aws:principaltag/team"},
		{"denial in doubt", statements(allowHome + `,{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"Bool":{"aws:MultiFactorAuthPresent":false}}}`), get("home/x"), "denied by Statement[1]; not evaluated: condition key aws:multifactorauthpresent"},
		{"denial in doubt about something else", statements(allowHome + `,{"Effect":"Deny","Action":"s3:Put*","Resource":"*","Condition":{"Bool":{"aws:MultiFactorAuthPresent":false}}}`), get("home/x"), "allowed by Statement[0] (Sid Home)"},
		{"doubt and a false condition", statements(allowHome + `,{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:userid":"x","s3:prefix":"y"}}}`), get("home/x"), "allowed by Statement[0] (Sid Home)"},
		{"operator for other keys", when(`{"ArnLike":{"s3:prefix":"arn:aws:s3:::x"}}`), list(""), "denied: no statement allows it; not evaluated: operator ArnLike of condition key s3:prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := policy.Parse(c.document)
			if err != nil {
				t.Fatal(err)
			}
			d := p.Evaluate(anna, c.request)
			if d.String() != c.want || d.Allowed != strings.HasPrefix(c.want, "allowed") {
				t.Errorf("%v: got %v, want %v", c.request, d, c.want)
			}
		})
	}
}

// TestConditions: the note and the tables of "IAM JSON policy elements: Condition operators".
func TestConditions(t *testing.T) {
	t.Parallel()
	in, out := list("home/anna/"), get("x")
	for _, c := range []struct {
		condition string
		request   policy.Request
		want      bool
	}{
		{`{"StringEquals":{"s3:prefix":"home/anna/"}}`, in, true},
		{`{"StringEquals":{"S3:Prefix":["x","home/anna/"]}}`, in, true},
		{`{"StringEquals":{"s3:prefix":"home/*"}}`, in, false},
		{`{"StringEquals":{"s3:prefix":"home/anna/"}}`, out, false}, // not there
		{`{"StringNotEquals":{"s3:prefix":["x","home/anna/"]}}`, in, false},
		{`{"StringNotEquals":{"s3:prefix":["x","y"]}}`, in, true},
		{`{"StringNotEquals":{"s3:prefix":"x"}}`, out, true},
		{`{"StringEqualsIgnoreCase":{"s3:prefix":"HOME/anna/"}}`, in, true},
		{`{"StringNotEqualsIgnoreCase":{"s3:prefix":"HOME/anna/"}}`, in, false},
		{`{"StringLike":{"s3:prefix":"home/????/"}}`, in, true},
		{`{"StringLike":{"s3:prefix":"Home/*"}}`, in, false},
		{`{"StringNotLike":{"s3:prefix":"home/*"}}`, in, false},
		{`{"StringLikeIfExists":{"s3:prefix":"nothing"}}`, out, true},
		{`{"StringLikeIfExists":{"s3:prefix":"nothing"}}`, in, false},
		{`{"StringLike":{"s3:prefix":"${transfer:HomeFolder}/*"}}`, in, true},
		{`{"StringLike":{"s3:prefix":"*"},"StringEquals":{"s3:delimiter":"/"}}`, in, true},
		{`{"StringLike":{"s3:prefix":"*"},"StringEquals":{"s3:delimiter":"-"}}`, in, false},
		{`{"StringEquals":{"s3:prefix":"home/anna/","s3:delimiter":"-"}}`, in, false},
		{`{"NumericLessThan":{"s3:max-keys":10}}`, in, false},
		{`{"NumericLessThanIfExists":{"s3:max-keys":"10"}}`, in, true},
		{`{"Null":{"s3:prefix":"true"}}`, out, true},
		{`{"Null":{"s3:prefix":true}}`, in, false},
		{`{"Null":{"s3:prefix":"false"}}`, in, true},
		{`{"Null":{"aws:username":"true"}}`, in, true},
		{`{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}`, in, true},
		{`{"IpAddress":{"aws:SourceIp":["2001:db8::/32","192.0.2.7"]}}`, in, true},
		{`{"IpAddress":{"aws:SourceIp":"198.51.100.0/24"}}`, in, false},
		{`{"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}}`, in, false},
		{`{"StringLike":{"aws:SourceIp":"192.0.2.*"}}`, in, true},
		{`{"DateLessThan":{"aws:CurrentTime":"2026-05-02"}}`, in, true},
		{`{"DateGreaterThan":{"aws:CurrentTime":"2026-05-01T12:00:00Z"}}`, in, false},
		{`{"DateGreaterThanEquals":{"aws:CurrentTime":"2026-05-01T14:00:00+02:00"}}`, in, true},
		{`{"DateEquals":{"aws:EpochTime":1777636800}}`, in, true},
		{`{"DateNotEquals":{"aws:EpochTime":"1777636800"}}`, in, false},
		{`{"NumericGreaterThan":{"aws:EpochTime":1777636799}}`, in, true},
		{`{"NumericNotEquals":{"aws:EpochTime":1}}`, in, true},
		{`{"NumericLessThanEquals":{"aws:EpochTime":1}}`, in, false},
		{`{"NumericEquals":{"s3:prefix":1}}`, in, false}, // no number
		{`{"NumericNotEquals":{"s3:prefix":1}}`, in, false},
		{`{"ForAnyValue:StringLike":{"s3:prefix":["x","home/*"]}}`, in, true},
		{`{"ForAnyValue:StringLike":{"s3:prefix":"home/*"}}`, out, false},
		{`{"ForAnyValue:StringNotLike":{"s3:prefix":"home/*"}}`, out, false},
		{`{"ForAnyValue:StringLikeIfExists":{"s3:prefix":"home/*"}}`, out, false},
		{`{"ForAllValues:StringLike":{"s3:prefix":"nothing"}}`, out, true},
		{`{"ForAllValues:StringLike":{"s3:prefix":"nothing"}}`, in, false},
		{`{"ForAllValues:StringNotLike":{"s3:prefix":"nothing"}}`, in, true},
		{`{"Bool":{"aws:SecureTransport":"true"}}`, in, false}, // not evaluated
		{`{}`, in, true},
	} {
		p, err := policy.Parse(when(c.condition))
		if err != nil {
			t.Errorf("%s: %v", c.condition, err)
			continue
		}
		if d := p.Evaluate(anna, c.request); d.Allowed != c.want {
			t.Errorf("%s, %v: %v", c.condition, c.request, d)
		}
	}
}

// TestValuesAreLiteral: a user or a home that is called like a wildcard is none.
func TestValuesAreLiteral(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse(statements(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${transfer:HomeDirectory}/${transfer:UserName}"}`))
	if err != nil {
		t.Fatal(err)
	}
	s := policy.Subject{UserName: "a?", Home: "bucket/*"}
	if d := p.Evaluate(s, get("x/ab")); d.Allowed {
		t.Error(d)
	}
	if d := p.Evaluate(s, get("*/a?")); !d.Allowed {
		t.Error(d)
	}
	if d := p.Evaluate(policy.Subject{UserName: "a?"}, get("*/a?")); d.Allowed || len(d.Doubts) == 0 {
		t.Errorf("a LOGICAL home has a value: %v", d)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	one := func(s string) string { return statements(`{` + s + `}`) }
	allow := `"Effect":"Allow","Action":"*","Resource":"*"`
	for document, want := range map[string]string{
		``:                                     "ends too early",
		`arn:aws:iam::123456789012:policy/p`:   "is not JSON",
		`"arn:aws:iam::123456789012:policy/p"`: "must be a JSON object",
		`[]`:                                   "must be a JSON object",
		`{}`:                                   "has no Statement",
		`{"Statement":[]} x`:                   "goes on after its end",
		`{"Statement":[]`:                      "is not JSON",
		`{"Statement":[],"Statement":[]}`:      `has "Statement" twice`,
		`{"Statement":[],"statement":[]}`:      `has an element "statement"`,
		`{"Version":"2012","Statement":[]}`:    "Version must be",
		`{"Version":20121017,"Statement":[]}`:  "Version must be",
		`{"Id":1,"Statement":[]}`:              "Id must be",
		`{"Statement":"x"}`:                    "Statement[0] must be an object",
		"{\"Statement\":[],\"Id\":\"\xff\"}":   "is not UTF-8",
		statements(strings.Repeat(" ", 2048)):  "may have 2048",
		one(``):                                "Statement[0].Effect must be",
		one(`"Effect":"allow","Action":"*","Resource":"*"`):                       "Statement[0].Effect must be",
		one(`"Effect":"Allow","Resource":"*"`):                                    "has neither Action nor NotAction",
		one(allow + `,"NotAction":"*"`):                                           "has both Action and NotAction",
		one(`"Effect":"Allow","Action":"*"`):                                      "has neither Resource nor NotResource",
		one(allow + `,"Principal":"*"`):                                           "Statement[0].Principal is for policies of resources",
		one(allow + `,"NotPrincipal":"*"`):                                        "Statement[0].NotPrincipal",
		one(allow + `,"condition":{}`):                                            `has an element "condition"`,
		one(allow + `,"Sid":"a b"`):                                               "Statement[0].Sid must be letters",
		one(allow + `,"Effect":"Deny"`):                                           `Statement has "Effect" twice`,
		statements(`{` + allow + `,"Sid":"a"},{` + allow + `,"Sid":"a"}`):         "Statement[1].Sid",
		one(`"Effect":"Allow","Action":[],"Resource":"*"`):                        "Statement[0].Action must be a string or a list",
		one(`"Effect":"Allow","Action":[1],"Resource":"*"`):                       "Statement[0].Action must be a string or a list",
		one(`"Effect":"Allow","Action":"GetObject","Resource":"*"`):               `Statement[0].Action "GetObject" must be * or such as`,
		one(`"Effect":"Allow","Action":"s3:${transfer:UserName}","Resource":"*"`): "must be * or such as",
		one(`"Effect":"Allow","Action":"*","Resource":"bucket/*"`):                "an ARN such as",
		one(`"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3"`):           "Statement[0].NotResource",
		one(`"Effect":"Allow","Action":"*","Resource":"arn::::${a:b}"`):           "an ARN such as",
		one(`"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${x"`):      "begins no variable",
		one(`"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${}"`):      "begins no variable",
		one(allow + `,"Condition":[]`):                                            "Statement[0].Condition must be an object",
		one(allow + `,"Condition":{"StringMatches":{"s3:prefix":"x"}}`):           `"StringMatches" is no condition operator`,
		one(allow + `,"Condition":{"stringlike":{"s3:prefix":"x"}}`):              "is no condition operator",
		one(allow + `,"Condition":{"NullIfExists":{"s3:prefix":"x"}}`):            "is no condition operator",
		one(allow + `,"Condition":{"NumericLike":{"s3:prefix":"x"}}`):             "is no condition operator",
		one(allow + `,"Condition":{"StringLike":"x"}`):                            "must be an object with condition keys",
		one(allow + `,"Condition":{"StringLike":{}}`):                             "must be an object with condition keys",
		one(allow + `,"Condition":{"StringLike":{"prefix":"x"}}`):                 `"prefix" is no condition key`,
		one(allow + `,"Condition":{"StringLike":{"s3:prefix":[]}}`):               "must not be an empty list",
		one(allow + `,"Condition":{"StringLike":{"s3:prefix":null}}`):             "must be a string, a number",
		one(allow + `,"Condition":{"StringLike":{"s3:prefix":{"a":1}}}`):          "Statement[0].Condition.StringLike.s3:prefix must be",
		one(allow + `,"Condition":{"IpAddress":{"aws:SourceIp":"192.0.2"}}`):      "is no value for this operator",
		one(allow + `,"Condition":{"DateEquals":{"aws:CurrentTime":"soon"}}`):     "is no value for this operator",
		one(allow + `,"Condition":{"NumericEquals":{"s3:max-keys":"NaN"}}`):       "is no value for this operator",
		one(allow + `,"Condition":{"Bool":{"aws:SecureTransport":"maybe"}}`):      "is no value for this operator",
		one(allow + `,"Condition":{"Null":{"s3:prefix":"maybe"}}`):                "must be true or false",
	} {
		_, err := policy.Parse(document)
		var told *policy.SyntaxError
		if !errors.As(err, &told) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v\nwant %s", document, err, want)
		}
	}
}

func TestDoubts(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		awsExample: "",
		statements(`{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::b/${aws:username}/${aws:username, 'x'}/${s3:prefix}"}`):                                  "variable ${aws:username}",
		when(`{"Bool":{"aws:SecureTransport":"true"},"ArnLike":{"aws:username":"x"},"Null":{"aws:username":"true"},"StringLike":{"s3:prefix":"${transfer:none}"}}`): "condition key aws:securetransport, operator ArnLike of condition key aws:username, variable ${transfer:none}",
	} {
		p, err := policy.Parse(document)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(p.Doubts(anna), ", "); got != want {
			t.Errorf("%s: %s", document, got)
		}
	}
}

// TestDocument: what STS gets means to IAM what we make of the user's policy.
func TestDocument(t *testing.T) {
	t.Parallel()
	text := `{ "Version":"2012-10-17", "Statement":{"Effect":"Allow","Action":"s3:*","Sid":"a",
		"Resource":["arn:aws:s3:::${transfer:HomeDirectory}*","arn:aws:s3:::b/${transfer:UserName}/${aws:userid}"],
		"Condition":{"NumericEquals":{"s3:max-keys":[1.50,7]},"StringEquals":{"s3:prefix":"<${Transfer:HomeFolder}>\n"}}}}`
	p, err := policy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Document(policy.Subject{UserName: `a"*$`, Home: "bucket/x/"})
	want := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Sid":"a",` +
		`"Resource":["arn:aws:s3:::bucket/x/*","arn:aws:s3:::b/a\"${*}${$}/${aws:userid}"],` +
		`"Condition":{"NumericEquals":{"s3:max-keys":[1.50,7]},"StringEquals":{"s3:prefix":"<x>\n"}}}}`
	if err != nil || got != want || !json.Valid([]byte(got)) {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	if got, err := p.Document(policy.Subject{UserName: "anna"}); err != nil || !strings.Contains(got, `"arn:aws:s3:::${transfer:HomeDirectory}*"`) {
		t.Errorf("a home that has no value: %s, %v", got, err)
	}
	old, err := policy.Parse(`{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${transfer:UserName}"}}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"*": "${transfer:UserName}", "anna": "anna"} {
		if got, err := old.Document(policy.Subject{UserName: name}); err != nil || !strings.Contains(got, "arn:aws:s3:::b/"+want) {
			t.Errorf("%s in the old version: %s, %v", name, got, err)
		}
	}
}

// BenchmarkEvaluate is what each operation of a user with a policy costs beside the rest.
func BenchmarkEvaluate(b *testing.B) {
	p, err := policy.Parse(awsExample)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !p.Evaluate(anna, get("home/anna/some/file/of/usual/length.csv")).Allowed {
			b.Fatal("denied")
		}
	}
}

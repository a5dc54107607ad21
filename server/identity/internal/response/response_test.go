package response_test

import (
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/internal/response"
)

const role = `"Role":"arn:aws:iam::123456789012:role/r"`

func line(wire string) string {
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(wire))
}

func TestParse(t *testing.T) {
	t.Parallel()
	home := []server.HomeDirectoryMapEntry{{Entry: "/", Target: "/bucket/anna"}}
	for _, c := range []struct {
		name, body string
		want       response.Response
	}{
		{"no user", `{}`, response.Response{}},
		{"null", `null`, response.Response{}},
		{"null role", `{"Role":null}`, response.Response{}},
		{"blank role, and the rest is nonsense", `{"Role":" ","PublicKeys":7,"PosixProfile":"x"}`, response.Response{}},
		{"all members", `{` + role + `,"Policy":"{}","HomeDirectoryType":"PATH","HomeDirectory":"/b/anna","PublicKeys":["a b","c d"],"PosixProfile":{"Uid":1,"Gid":4294967295,"SecondaryGids":[3]}}`,
			response.Response{Policy: "{}", HomeDirectoryType: "PATH", HomeDirectory: "/b/anna", PublicKeys: []string{"a b", "c d"},
				PosixProfile: &server.PosixProfile{Uid: 1, Gid: 4294967295, SecondaryGids: []int64{3}}}},
		{"details as a string", `{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":"[{\"Entry\":\"/\",\"Target\":\"/bucket/anna\"}]"}`,
			response.Response{HomeDirectoryType: "LOGICAL", HomeDirectoryMappings: home}},
		{"details as a list", `{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":[{"Entry":"/","Target":"/bucket/anna"}]}`,
			response.Response{HomeDirectoryType: "LOGICAL", HomeDirectoryMappings: home}},
		{"details without LOGICAL", `{` + role + `,"HomeDirectoryDetails":"nonsense"}`, response.Response{}},
		{"sample: an empty key", `{` + role + `,"PublicKeys":[""]}`, response.Response{PublicKeys: []string{}}},
		{"sample: keys as a string", `{` + role + `,"PublicKeys":"[ssh-rsa AAAA]"}`, response.Response{PublicKeys: []string{"ssh-rsa AAAA"}}},
		{"keys as JSON in a string", `{` + role + `,"PublicKeys":"[\"ssh-rsa AAAA\"]"}`, response.Response{PublicKeys: []string{"ssh-rsa AAAA"}}},
		{"sample: ids between quotes", `{` + role + `,"PosixProfile":{"Uid":"1001","Gid":"0"}}`, response.Response{PosixProfile: &server.PosixProfile{Uid: 1001}}},
		{"empties", `{` + role + `,"Policy":"","HomeDirectory":null,"PosixProfile":"","PublicKeys":null}`, response.Response{}},
		{"policy as an object stays one", `{` + role + `,"Policy":{"a":1}}`, response.Response{Policy: `{"a":1}`}},
		{"a member of somebody's own", `{` + role + `,"Note":{"x":[]}}`, response.Response{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := response.Parse([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.body, "arn:") {
				c.want.Role = "arn:aws:iam::123456789012:role/r"
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for body, word := range map[string]string{
		``:                                  "no JSON object",
		`secret`:                            "no JSON object",
		`[]`:                                "no JSON object",
		`{"Role":"x"}{}`:                    "no JSON object",
		`{"Role":["x"]}`:                    "Role",
		`{` + role + `,"PublicKeys":[1]}`:   "PublicKeys",
		`{` + role + `,"HomeDirectory":{}}`: "HomeDirectory",
		`{` + role + `,"HomeDirectoryType":"logical"}`:                                                        "HomeDirectoryType",
		`{` + role + `,"HomeDirectoryType":"LOGICAL"}`:                                                        "HomeDirectoryDetails",
		`{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":""}`:                              "HomeDirectoryDetails",
		`{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":"[]"}`:                            "HomeDirectoryDetails",
		`{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":"{"}`:                             "HomeDirectoryDetails",
		`{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":"[{\"Entry\":\"/\"}]"}`:           "without Entry or Target",
		`{` + role + `,"PosixProfile":[]}`:                                                                    "PosixProfile",
		`{` + role + `,"PosixProfile":{"Uid":1}}`:                                                             "Gid",
		`{` + role + `,"PosixProfile":{"Uid":-1,"Gid":1}}`:                                                    "Uid",
		`{` + role + `,"PosixProfile":{"Uid":1,"Gid":4294967296}}`:                                            "Gid",
		`{` + role + `,"PosixProfile":{"Uid":1,"Gid":1,"SecondaryGids":[1.5]}}`:                               "SecondaryGids",
		`{` + role + `,"PosixProfile":{"Uid":1,"Gid":1,"SecondaryGids":[1` + strings.Repeat(",1", 16) + `]}}`: "SecondaryGids",
	} {
		got, err := response.Parse([]byte(body))
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
	}
}

func TestGrant(t *testing.T) {
	t.Parallel()
	keys := []string{"ssh-rsa", "ssh-rsa !!!", line("first"), line("second") + " anna@home"}
	full := response.Response{Role: " arn:role ", HomeDirectory: "/b", HomeDirectoryType: "LOGICAL", PosixProfile: &server.PosixProfile{Uid: 3},
		HomeDirectoryMappings: []server.HomeDirectoryMapEntry{{Entry: "/", Target: "/b"}}}
	withKeys, withPolicy := full, full
	withKeys.PublicKeys, withPolicy.Policy = keys, " {} "
	password, key := identity.Attempt{UserName: "anna", Password: "pw"}, identity.Attempt{UserName: "anna", PublicKey: []byte("second")}
	for _, c := range []struct {
		name     string
		response response.Response
		attempt  identity.Attempt
		granted  bool
		reason   string
	}{
		{"password", full, password, true, ""},
		{"key", withKeys, key, true, ""},
		{"no role", response.Response{PublicKeys: keys}, key, false, ""},
		{"blank role", response.Response{Role: "\t"}, password, false, ""},
		{"another key", withKeys, identity.Attempt{UserName: "anna", PublicKey: []byte("third")}, false, ""},
		{"no keys", full, key, false, ""},
		{"nothing proven", full, identity.Attempt{UserName: "anna"}, false, ""},
		{"keys on a password", withKeys, password, false, "PublicKeys"},
		{"policy", withPolicy, password, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, err := c.response.Grant(c.attempt)
			if c.granted {
				want := identity.Grant{UserName: "anna", Role: "arn:role", HomeDirectory: "/b", HomeDirectoryType: "LOGICAL",
					HomeDirectoryMappings: full.HomeDirectoryMappings, PosixProfile: full.PosixProfile, Policy: strings.TrimSpace(c.response.Policy)}
				if err != nil || !reflect.DeepEqual(g, want) {
					t.Errorf("got %+v, %v", g, err)
				}
				return
			}
			var told *identity.DeniedError
			if !errors.Is(err, identity.ErrDenied) || !reflect.DeepEqual(g, identity.Grant{}) {
				t.Errorf("got %+v, %v", g, err)
			}
			if errors.As(err, &told) != (c.reason != "") || told != nil && !strings.Contains(told.Reason, c.reason) {
				t.Errorf("reason for the log: %v", err)
			}
		})
	}
}

// FuzzParse: whatever a provider says, nobody gets in without a Role, nor with a key that is not listed, nor without a
// key or password.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{` + role + `,"PublicKeys":["` + line("first") + `"]}`, `{` + role + `,"PublicKeys":"[` + line("first") + `]"}`,
		`{` + role + `,"HomeDirectoryType":"LOGICAL","HomeDirectoryDetails":"[{\"Entry\":\"/\",\"Target\":\"/b\"}]","PosixProfile":{"Uid":"1","Gid":2}}`,
		`{` + role + `,"Policy":"{}"}`, `{"role":"x","ROLE":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := response.Parse(body)
		if err != nil {
			return
		}
		if r.HomeDirectoryType == "LOGICAL" && len(r.HomeDirectoryMappings) == 0 {
			t.Error("LOGICAL without mappings")
		}
		if _, err := r.Grant(identity.Attempt{UserName: "anna"}); !errors.Is(err, identity.ErrDenied) {
			t.Error("let in without key or password")
		}
		if _, err := r.Grant(identity.Attempt{UserName: "anna", PublicKey: []byte("no such key")}); !errors.Is(err, identity.ErrDenied) &&
			!strings.Contains(string(body), base64.StdEncoding.EncodeToString([]byte("no such key"))) {
			t.Error("let in with a key that is not there")
		}
		g, err := r.Grant(identity.Attempt{UserName: "anna", Password: "pw"})
		if err == nil && (strings.TrimSpace(g.Role) == "" || len(r.PublicKeys) > 0 || strings.TrimSpace(r.Policy) != g.Policy) {
			t.Errorf("let in: %+v of %+v", g, r)
		}
	})
}

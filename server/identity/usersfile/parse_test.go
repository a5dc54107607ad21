package usersfile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/identity/internal/response"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	_, line := key("ssh-ed25519", "one")
	user := "role: " + roleARN + "\nusers:\n- name: anna\n  password_hash: " + cheap("pw") + "\n"
	long := strings.Repeat("x", 1024)
	for _, c := range []struct{ text, want string }{
		{"", "the file is empty"},
		{"# nothing\n", "the file is empty"},
		{"users: []\n---\nusers: []\n", "one document"},
		{"users: [", "line 1"},
		{"- anna", "line 1: must be a table of keys"},
		{"{}", "line 1: needs users"},
		{"users:", "line 1: needs users"},
		{"users: anna", "line 1: users: must be a list"},
		{"users: [anna]", "line 1: users[0]: must be a table of keys"},
		{"role: [a]\nusers: []", "line 1: role: must be text"},
		{"role: admin\nusers: []", "line 1: role: must be the ARN of a role"},
		{"users: []\nuser: []", "line 2: user: unknown key"},
		{"users: []\n[a]: b", "a key must be a word"},
		{"a: &x 1\nusers: *x", "line 2: users: must be a list"},
		{user + "  name: anna", "line 5: users[0].name: stands here a second time"},
		{user + "  password: hunter2", "line 5: users[0].password: passwords do not belong into the file"},
		{user + "- name: anna\n  public_keys: ['" + line + "']", "line 5: users[1].name: another user has this name"},
		{user + "- password_hash: " + cheap("pw"), "line 5: users[1]: needs a name"},
		{user + "- name:\n  password_hash: " + cheap("pw") + "\n- name:\n  password_hash: " + cheap("pw"), "line 7: users[2].name: needs a name"},
		{user + "- name: -x", "line 5: users[1].name: must have 3 to 100 letters"},
		{user + "- name: bert", "line 5: users[1]: needs a password_hash or public_keys"},
		{"users: [{name: anna, public_keys: ['" + line + "']}]", "users[0]: needs a role"},
		{user + "  home_directory: bucket", "users[0].home_directory: must begin with /"},
		{user + "  home_directory: /" + long, "at most 1024 bytes"},
		{user + "  home_directory_type: logical", "users[0].home_directory_type: must be PATH or LOGICAL"},
		{user + "  home_directory_type: LOGICAL", "line 5: users[0].home_directory_type: LOGICAL needs home_directory_mappings"},
		{user + "  home_directory_mappings: [{entry: /, target: /b}]", "line 5: users[0].home_directory_mappings: needs home_directory_type: LOGICAL"},
		{user + "  home_directory_type: LOGICAL\n  home_directory_mappings: [{entry: /}]", "line 6: users[0].home_directory_mappings[0]: needs entry and target"},
		{user + "  home_directory_type: LOGICAL\n  home_directory_mappings: [{entry: /, target: /b/}]", "home_directory_mappings[0].target: must not end with /"},
		{user + "  home_directory_type: LOGICAL\n  home_directory_mappings: [{entry: /, target: /b, type: LINK}]", "[0].type: must be FILE or DIRECTORY"},
		{user + "  home_directory_type: LOGICAL\n  home_directory_mappings: [{entry: /, target: /b}, {entry: /, target: /c}]", "has an entry twice"},
		{user + "  posix_profile: {uid: 1}", "users[0].posix_profile: needs uid and gid"},
		{user + "  posix_profile: {uid: 1, gid: -1}", "users[0].posix_profile.gid: must be a whole number from 0 to 4294967295"},
		{user + "  posix_profile: {uid: 1, gid: 1, secondary_gids: [1" + strings.Repeat(",1", 16) + "]}", "secondary_gids: has more than 16"},
		{user + "  policy: '{'", "users[0].policy: must be JSON"},
		{user + "  public_keys: ssh-rsa", "users[0].public_keys: must be a list"},
		{user + "  public_keys: [ssh-rsa]", "users[0].public_keys[0]: must be one public key on one line"},
		{user + "  public_keys: [ssh-dss AAAA]", "must be ssh-ed25519 or ssh-rsa"},
		{user + "  public_keys: [" + strings.Replace(line, "ssh-ed25519", "ssh-rsa", 1) + "]", "users[0].public_keys[0]: is damaged"},
		{user + "- name: bert\n  password_hash: secret", "line 6: users[1].password_hash: must be an argon2id hash"},
	} {
		_, err := parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %v\nwant %s", c.text, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("the error repeats a value: %v", err)
		}
	}
}

// TestAllErrorsAtOnce: one look at the errors is enough to mend a file.
func TestAllErrorsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse([]byte("users:\n- name: a\n- name: bert\n  role: x\n- 7\n"))
	for _, want := range []string{"line 2: users[0].name", "line 2: users[0]: needs a role", "line 4: users[1].role", "line 5: users[2]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v has no %q", err, want)
		}
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	made := HashPassword("correct horse")
	h, err := parseHash(made)
	if err != nil || !h.matches("correct horse") || h.matches("Correct horse") || h.matches("") {
		t.Errorf("%s: %v", made, err)
	}
	if !strings.HasPrefix(made, "$argon2id$v=19$m=19456,t=2,p=1$") || HashPassword("correct horse") == made {
		t.Errorf("made %s", made)
	}
	// From the test suite of the reference implementation (P-H-C/phc-winner-argon2, src/test.c).
	known, err := parseHash("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	if err != nil || !known.matches("password") {
		t.Errorf("the reference implementation's hash: %v", err)
	}
	d := decoy(h.cost)
	if d.matches("") || d.matches("correct horse") {
		t.Error("the decoy matches")
	}
}

func TestHashRefuses(t *testing.T) {
	t.Parallel()
	const salt, sum = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, s := range []string{
		"", "secret", "$2y$10$abcdefghijklmnopqrstuv", "$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + sum, "x$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$m=64,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$t=1,m=64,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=1,p=1,x=2$" + salt + "$" + sum, "$argon2id$v=19$m=064,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=33,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=262145,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=1,p=257$" + salt + "$" + sum, "$argon2id$v=19$m=7,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdA$" + sum, "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$c2hvcnQ", "$argon2id$v=19$m=64,t=1,p=1$" + salt + "=$" + sum,
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + sum + "$",
	} {
		if h, err := parseHash(s); err == nil {
			t.Errorf("%q was read as %+v", s, h.cost)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats the value: %v", err)
		}
	}
}

// FuzzParse: what is read can be served; what is served names a role, and answers to passwords show no keys.
func FuzzParse(f *testing.F) {
	_, line := key("ssh-ed25519", "one")
	for _, seed := range []string{
		"users: []", "role: " + roleARN + "\nusers:\n- name: anna\n  password_hash: " + cheap("pw") + "\n  public_keys: [" + line + "]\n",
		`{"role":"` + roleARN + `","users":[{"name":"anna","public_keys":["` + line + `"],"home_directory_type":"LOGICAL","home_directory_mappings":[{"entry":"/","target":"/b"}],"posix_profile":{"uid":1,"gid":2}}]}`,
		"users: &a [*a]", "users:\n- <<: {name: x}\n", "? [x]\n: y", "users: [{name: null}, {name: null}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := parse(b)
		if err != nil {
			return
		}
		for name, one := range u.byName {
			for _, answer := range [][]byte{one.password, one.keys} {
				if answer == nil {
					continue
				}
				if !json.Valid(answer) {
					t.Fatalf("%s: %s", name, answer)
				}
				if r, err := response.Parse(answer); err != nil || r.Role == "" {
					t.Errorf("%s: %s: %v", name, answer, err)
				}
			}
			if strings.Contains(string(one.password), "PublicKeys\":") {
				t.Errorf("%s: %s", name, one.password)
			}
		}
	})
}

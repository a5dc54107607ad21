package usersfile

import (
	"strings"
	"testing"
)

const role = "arn:aws:iam::123456789012:role/users"

// TestEdit: users come, change and go; comments and all else stay.
func TestEdit(t *testing.T) {
	t.Parallel()
	old := HashPassword("old")
	text := "# who may come in\nrole: " + role + " # for all\nusers:\n  # anna is a partner\n  - name: anna\n    password_hash: " + old +
		" # until May\n    home_directory: /b/anna\n  - {name: bert, password_hash: \"" + old + "\"}\n"
	e, err := Edit([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"anna": e.SetPassword("anna", "new"), "bert": e.SetPassword("bert", "new"), "carl": e.Add("carl", "new", "", "/b/carl")} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, err := e.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# who may come in\n", "role: " + role + " # for all\n", "# anna is a partner\n", " # until May\n", "home_directory: /b/anna\n", "home_directory: /b/carl\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is lost in\n%s", want, b)
		}
	}
	if strings.Contains(string(b), old) {
		t.Errorf("an old hash is still there:\n%s", b)
	}
	again, err := Edit(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"anna", "bert", "carl"} {
		right, err := again.Check(name, "new")
		wrong, err2 := again.Check(name, "old")
		if !right || wrong || err != nil || err2 != nil {
			t.Errorf("%s: %v %v %v %v", name, right, wrong, err, err2)
		}
	}
	if !again.Delete("anna") || again.Delete("anna") || again.Has("anna") || !again.Has("bert") {
		t.Error("anna stays, or bert goes")
	}
	if b, err = again.Bytes(); err != nil || strings.Contains(string(b), "anna") {
		t.Errorf("%v\n%s", err, b)
	}
}

// TestEditNew: a file that is empty gets its first users, and can lose them all.
func TestEditNew(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "users: []\n", "\n\n", `{"users": []}`} {
		e, err := Edit([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := e.Add("anna", "pw", "", ""); err == nil || !strings.Contains(err.Error(), "needs a role") {
			t.Errorf("%q: without a role: %v", text, err)
		}
		if err := e.Add("anna", "pw", role, "/b"); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		b, err := e.Bytes()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if e, err = Edit(b); err != nil || !e.Has("anna") {
			t.Fatalf("%q: %v in\n%s", text, err, b)
		}
		e.Delete("anna")
		if b, err = e.Bytes(); err != nil {
			t.Errorf("%q: %v in\n%s", text, err, b)
		}
	}
}

// TestEditErrors: what cannot be is refused and changes nothing.
func TestEditErrors(t *testing.T) {
	t.Parallel()
	if _, err := Edit([]byte("users: [{name: anna}]")); err == nil {
		t.Error("a wrong file is edited")
	}
	e, err := Edit([]byte("role: " + role + "\nusers: [{name: anna, public_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS]}]"))
	if err != nil {
		t.Fatal(err)
	}
	_, none := e.Check("anna", "pw")
	_, nobody := e.Check("bert", "pw")
	for want, err := range map[string]error{
		"only public keys": none, "there is no user bert": nobody, "there is no user carl": e.SetPassword("carl", "pw"),
		"there is a user anna": e.Add("anna", "pw", "", ""), "the name \"a\" must have": e.Add("a", "pw", "", ""),
		"the role must be": e.Add("dora", "pw", "admin", ""), "the home directory must begin": e.Add("dora", "pw", "", "home"),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := e.SetPassword("anna", "pw"); err != nil {
		t.Error(err)
	}
	if right, err := e.Check("anna", "pw"); !right || err != nil {
		t.Errorf("a first password: %v %v", right, err)
	}
}

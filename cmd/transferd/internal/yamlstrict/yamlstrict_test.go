package yamlstrict

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

type Base struct {
	Name string `yaml:"name"`
}

type sample struct {
	Base
	Listen string        `yaml:"listen"`
	Wait   time.Duration `yaml:"wait"`
	On     *bool         `yaml:"on"`
	Count  int           `yaml:"count"`
	Keys   []struct {
		ID string `yaml:"id"`
	} `yaml:"keys"`
	Users  map[string]struct{ Role string } `yaml:"users"`
	Secret string                           `yaml:"-"`
}

func decode(t *testing.T, text string) (sample, Lines, error) {
	t.Helper()
	s := sample{Listen: "default", Count: 3}
	n, err := Parse([]byte(text))
	if err != nil {
		return s, nil, err
	}
	lines, err := Decode(n, &s)
	return s, lines, err
}

// TestDecode: what is there is read, what is not there stays.
func TestDecode(t *testing.T) {
	t.Parallel()
	s, lines, err := decode(t, "name: n\nwait: 90s\non: false\ncount:\nkeys:\n  - id: a\n  - id: 007\nusers:\n  bob: {Role: r}\n")
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "n" || s.Listen != "default" || s.Count != 3 || s.Wait != 90*time.Second || s.On == nil || *s.On || len(s.Keys) != 2 ||
		s.Keys[1].ID != "007" || s.Users["bob"].Role != "r" {
		t.Errorf("read %+v", s)
	}
	if lines["keys[1].id"] != 7 || lines["users.bob.Role"] != 9 {
		t.Errorf("lines %v", lines)
	}
	if empty, _, err := decode(t, "# nothing\n"); err != nil || !reflect.DeepEqual(empty, sample{Listen: "default", Count: 3}) {
		t.Errorf("an empty file: %+v, %v", empty, err)
	}
}

// TestRefusals: each error names the line and the key, and never the value.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"listn: x-secret", "line 1: listn: unknown key; is it listen?"},
		{"Listen: x-secret", "line 1: Listen: unknown key; is it listen?"},
		{"other: x-secret", "line 1: other: unknown key"},
		{"Secret: x-secret", "line 1: Secret: unknown key"},
		{"\ncount: x-secret", "line 2: count: must be a whole number"},
		{"wait: 30", "line 1: wait: must be a duration"},
		{"on: x-secret", "line 1: on: must be true or false"},
		{"listen: [x-secret]", "line 1: listen: must be text"},
		{"keys: x-secret", "line 1: keys: must be a list"},
		{"keys:\n- x-secret", "line 2: keys[0]: must be a table of keys"},
		{"keys:\n- id: a\n  ids: b", "line 3: keys[0].ids: unknown key; is it id?"},
		{"listen: a\nlisten: x-secret", "line 2: listen: stands here a second time"},
		{"a: &x 1\nlisten: *x", "line 2: listen: aliases are not read"},
		{"listen: a\n---\nlisten: x-secret", "line 2: one document is read"},
		{"listen: [", "line 1: did not find expected node content"},
		{"- x-secret", "line 1: must be a table of keys"},
	} {
		_, _, err := decode(t, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "x-secret") {
			t.Errorf("%q: error %v, want %q", c.text, err, c.want)
		}
	}
	_, _, err := decode(t, "listn: a\ncount: b\n")
	if err == nil || strings.Count(err.Error(), "line ") != 2 {
		t.Errorf("two errors come as %v", err)
	}
}

package acceptance_test

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/api/internal/model"
)

//go:embed testdata/operations.json
var operationsJSON []byte

// table is testdata/operations.json: requests and what must come of them, for every client.
type table struct {
	// Never are the errors that the model gives an operation and that cannot happen here: "Operation Exception" to why.
	Never  map[string]string
	Groups []group
}

// group is steps that follow each other, and begin with an empty catalogue.
type group struct {
	Name  string
	Steps []step
}

// step is one request. In all its strings <name> stands for a variable.
type step struct {
	Op     string         // one call, or
	Wait   string         // a waiter, or
	Pages  string         // a whole list in pages of Size, or
	Upload string         // a whole file that a client of this server sent
	Params map[string]any // the API's members
	Size   int
	// Save keeps members of the answer as variables: name to path, such as HostKeys.0.HostKeyId.
	Save map[string]string
	// Want is a part of the answer; of pages it is in the member Pages. See match.
	Want map[string]any
	// Error is the exception that must come, and Message a part of its text, Details its other members.
	Error   string
	Message string
	Details map[string]string
	// Newer says that the request has members that old clients do not know; then they refuse to send it.
	Newer bool
}

func loadTable(t testing.TB) table {
	t.Helper()
	var tab table
	d := json.NewDecoder(strings.NewReader(string(operationsJSON)))
	d.DisallowUnknownFields()
	if err := d.Decode(&tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

// TestOperationsWithGo runs the table with the AWS SDK for Go.
func TestOperationsWithGo(t *testing.T) {
	t.Parallel()
	runTable(t, func(_ *testing.T, w *world) client { return goClient{w} }, false)
}

// TestOperationsWithPython runs the table with every boto3 of this machine.
func TestOperationsWithPython(t *testing.T) {
	t.Parallel()
	for version, path := range interpreters(t) {
		t.Run("botocore "+version, func(t *testing.T) {
			t.Parallel()
			runTable(t, func(t *testing.T, w *world) client { return python(t, path, w) }, true)
		})
	}
}

// runTable runs every group. A client that may be old may refuse to send what is newer than it.
func runTable(t *testing.T, connect func(*testing.T, *world) client, old bool) {
	t.Helper()
	w := newWorld(t)
	c := connect(t, w)
	vars := variables(t)
	for _, g := range loadTable(t).Groups {
		t.Run(g.Name, func(t *testing.T) {
			t.Cleanup(func() { w.clear(t) })
			r := runner{world: w, client: c, vars: maps.Clone(vars), old: old}
			for i, s := range g.Steps {
				r.run(t, fmt.Sprintf("step %d, %s%s%s", i+1, s.Op, s.Wait, s.Pages), s)
			}
		})
	}
}

// runner runs the steps of a group.
type runner struct {
	world  *world
	client client
	vars   map[string]string
	old    bool // the client may refuse what is newer than it
}

func (r *runner) run(t *testing.T, name string, s step) {
	t.Helper()
	if s.Upload != "" {
		r.vars[only(t, s.Save)] = r.world.execution(t, r.resolve(s.Upload).(string))
		return
	}
	req := request{Kind: "call", Operation: s.Op, Key: admin, Secret: secret(admin), Size: s.Size}
	switch {
	case s.Wait != "":
		req.Kind, req.Operation = "wait", s.Wait
	case s.Pages != "":
		req.Kind, req.Operation = "pages", s.Pages
	}
	req.Params, _ = r.resolve(s.Params).(map[string]any)
	got := r.client.do(t, req)
	if got.Refused != "" {
		if !s.Newer || !r.old {
			t.Fatalf("%s: the client refuses: %s", name, got.Refused)
		}
		for v := range s.Save { // what follows from it is refused too
			r.vars[v] = "unknown"
		}
		return
	}
	if got.Error != s.Error || got.Error == "" && got.Message != "" {
		t.Fatalf("%s %v: got error %q (%s), want %q", name, req.Params, got.Error, got.Message, s.Error)
	}
	if part := r.resolve(s.Message).(string); !strings.Contains(got.Message, part) {
		t.Errorf("%s: message %q lacks %q", name, got.Message, part)
	}
	for k, v := range s.Details {
		if want := r.resolve(v).(string); got.Details[k] != want && got.Details != nil {
			t.Errorf("%s: %s of the error is %q, want %q", name, k, got.Details[k], want)
		}
	}
	r.judge(t, name, s, got)
}

// judge compares an answer with what the step wants, and keeps what it saves.
func (r *runner) judge(t *testing.T, name string, s step, got reply) {
	t.Helper()
	answer := map[string]any{}
	maps.Copy(answer, got.Output)
	if got.Pages != nil {
		pages := make([]any, 0, len(got.Pages))
		for _, p := range got.Pages {
			pages = append(pages, p)
		}
		answer["Pages"] = pages
	}
	for member, want := range s.Want {
		if why := match(r.resolve(want), answer[member]); why != "" {
			t.Errorf("%s: %s%s", name, member, why)
		}
	}
	for v, path := range s.Save {
		value, ok := lookup(answer, path).(string)
		if !ok || value == "" {
			t.Fatalf("%s: the answer has no %s: %v", name, path, answer)
		}
		r.vars[v] = value
	}
}

// resolve puts variables into strings, however deep.
func (r *runner) resolve(v any) any {
	switch v := v.(type) {
	case string:
		return regexp.MustCompile(`<\w+>`).ReplaceAllStringFunc(v, func(name string) string {
			if value, ok := r.vars[strings.Trim(name, "<>")]; ok {
				return value
			}
			return name
		})
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = r.resolve(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = r.resolve(v[k])
		}
		return out
	}
	return v
}

// match says how got differs from want, "" if it does not. An object wants its members and allows more; null wants
// nothing or an empty text, "@empty" also an empty list; "*" wants anything that is there, and /…/ a text that matches as
// a whole. {"@len": n, "@has": […]} wants a list of so many elements, with one like each of these.
func match(want, got any) string {
	switch want := want.(type) {
	case nil:
		if got != nil && got != "" {
			return fmt.Sprintf(" is %v, want nothing", got)
		}
		return ""
	case map[string]any:
		if _, list := got.([]any); list {
			return matchList(want, got.([]any))
		}
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf(" is %v, want an object", got)
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if why := match(want[k], object[k]); why != "" {
				return "." + k + why
			}
		}
		return ""
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return fmt.Sprintf(" is %v, want %v", got, want)
		}
		for i := range want {
			if why := match(want[i], list[i]); why != "" {
				return "." + strconv.Itoa(i) + why
			}
		}
		return ""
	}
	return matchScalar(want, got)
}

func matchScalar(want, got any) string {
	text, _ := want.(string)
	ok := reflect.DeepEqual(want, got)
	switch {
	case text == "*":
		ok = got != nil && got != ""
	case text == "@empty":
		list, isList := got.([]any)
		ok = got == nil || isList && len(list) == 0
	case len(text) > 2 && text[0] == '/' && text[len(text)-1] == '/':
		s, isText := got.(string)
		ok = isText && regexp.MustCompile("^(?s:"+text[1:len(text)-1]+")$").MatchString(s)
	}
	if !ok {
		return fmt.Sprintf(" is %v, want %v", got, want)
	}
	return ""
}

func matchList(want map[string]any, got []any) string {
	if n, ok := want["@len"].(float64); ok && int(n) != len(got) {
		return fmt.Sprintf(" has %d elements, want %v: %v", len(got), n, got)
	}
	has, _ := want["@has"].([]any)
	for _, element := range has {
		if !slices.ContainsFunc(got, func(g any) bool { return match(element, g) == "" }) {
			return fmt.Sprintf(" is %v, which lacks %v", got, element)
		}
	}
	return ""
}

// lookup follows a path such as HostKeys.0.HostKeyId.
func lookup(v any, path string) any {
	for _, name := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func only(t *testing.T, m map[string]string) string {
	t.Helper()
	keys := slices.Collect(maps.Keys(m))
	if len(keys) != 1 {
		t.Fatalf("want one variable, have %v", keys)
	}
	return keys[0]
}

// TestMatch: the judge of the table finds what is wrong.
func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{`{"A": 1}`, `{"A": 1, "B": 2}`, true},
		{`{"A": 1}`, `{"A": 2}`, false},
		{`{"A": 1}`, `{}`, false},
		{`{"A": null}`, `{"A": ""}`, true},
		{`{"A": null}`, `{"A": []}`, false},
		{`{"A": "@empty"}`, `{"A": []}`, true},
		{`{"A": "@empty"}`, `{"A": [1]}`, false},
		{`{"A": "*"}`, `{"A": 0}`, true},
		{`{"A": "*"}`, `{"B": 0}`, false},
		{`{"A": "/a+/"}`, `{"A": "aa"}`, true},
		{`{"A": "/a+/"}`, `{"A": "aab"}`, false},
		{`[1, 2]`, `[1, 2]`, true},
		{`[1, 2]`, `[1, 2, 3]`, false},
		{`{"@len": 2, "@has": [{"A": 1}]}`, `[{"A": 2}, {"A": 1, "B": 1}]`, true},
		{`{"@len": 1}`, `[]`, false},
		{`{"@has": [3]}`, `[1, 2]`, false},
		{`{"@len": 0}`, `null`, false},
	} {
		var want, got any
		if err := errors.Join(json.Unmarshal([]byte(c.want), &want), json.Unmarshal([]byte(c.got), &got)); err != nil {
			t.Fatal(err)
		}
		if why := match(want, got); (why == "") != c.ok {
			t.Errorf("%s against %s: %q, want a match: %v", c.want, c.got, why, c.ok)
		}
	}
}

// TestTableIsComplete: every operation of the model is in the table; those that are served with a request that succeeds
// and with each of their errors, but for those that TestCallers and TestFaults bring about, and for
// ServiceUnavailableException, which this service never answers.
func TestTableIsComplete(t *testing.T) {
	t.Parallel()
	m, err := model.Load()
	if err != nil {
		t.Fatal(err)
	}
	tab := loadTable(t)
	seen := map[string]bool{} // "Operation Exception", "Operation " for success
	for _, g := range tab.Groups {
		for _, s := range g.Steps {
			seen[s.Op+s.Pages+" "+s.Error] = true
		}
	}
	elsewhere := []string{"InternalServiceError", "ServiceUnavailableException", "AccessDeniedException", "ThrottlingException"}
	counted := 0
	for _, name := range m.Operations() {
		op, _ := m.Operation(name)
		if !seen[name+" "] {
			if !seen[name+" InvalidRequestException"] {
				t.Errorf("no step calls %s", name)
			}
			continue
		}
		counted++
		for _, exception := range append(op.Errors, "ValidationException") {
			key := name + " " + exception
			if seen[key] == (tab.Never[key] != "") && !slices.Contains(elsewhere, exception) {
				t.Errorf("%s: seen %v, never happens: %q", key, seen[key], tab.Never[key])
			}
		}
	}
	t.Logf("%d of %d operations are served", counted, len(m.Operations()))
	if counted != 37 {
		t.Errorf("%d operations are served, want all 37 that are not of AS2, connectors and web apps", counted)
	}
}

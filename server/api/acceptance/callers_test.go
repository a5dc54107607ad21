package acceptance_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/api/internal/model"
)

// good are requests that the control plane takes, one for each operation that it serves: the first one of the table that
// succeeds. What they name does not exist.
func good(t *testing.T) []request {
	t.Helper()
	m, err := model.Load()
	if err != nil {
		t.Fatal(err)
	}
	unknown := map[string]string{
		"ServerId": "s-00000000000000000", "WorkflowId": "w-00000000000000000", "ExecutionId": "00000000-0000-4000-8000-000000000000",
		"SshPublicKeyId": "key-00000000000000000", "HostKeyId": "hostkey-00000000000000000", "NextToken": "bm90IGEgdG9rZW4",
		"Arn": "arn:aws:transfer:" + region + ":" + account + ":server/s-00000000000000000",
	}
	all := map[string]request{}
	vars := variables(t)
	for _, g := range loadTable(t).Groups {
		for _, s := range g.Steps {
			for name, path := range s.Save {
				vars[name] = unknown[path[strings.LastIndex(path, ".")+1:]]
			}
			if _, have := all[s.Op]; have || s.Op == "" || s.Error != "" || s.Newer {
				continue
			}
			r := runner{vars: vars}
			params, _ := r.resolve(s.Params).(map[string]any)
			all[s.Op] = request{Kind: "call", Operation: s.Op, Params: params}
		}
	}
	var list []request
	for _, name := range m.Operations() {
		if r, served := all[name]; served {
			list = append(list, r)
		}
	}
	if len(list) != 37 {
		t.Fatalf("the table has good requests for %d operations", len(list))
	}
	return list
}

// clients are the SDKs of this machine, by name.
func clients(t *testing.T, w *world) map[string]client {
	t.Helper()
	all := map[string]client{"go": goClient{w}}
	for version, path := range interpreters(t) {
		all["botocore "+version] = python(t, path, w)
	}
	return all
}

// TestCallers: each operation is refused to keys that may not call it, and to those that call too often.
func TestCallers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	requests := good(t)
	if _, err := w.client(hurried).ListServers(t.Context(), nil); err != nil { // spends the key's one call
		t.Fatal(err)
	}
	for name, c := range clients(t, w) {
		t.Run(name, func(t *testing.T) {
			for _, r := range requests {
				t.Run(r.Operation, func(t *testing.T) { judgeCallers(t, c, r) })
			}
		})
	}
}

func judgeCallers(t *testing.T, c client, r request) {
	t.Helper()
	as := func(key string) reply {
		r.Key, r.Secret = key, secret(key)
		return c.do(t, r)
	}
	const denied = "AccessDeniedException"
	if got := as(nobody); (got.Error == denied) != (r.Operation != "ListServers") || got.Refused != "" {
		t.Errorf("a key that may list servers gets %+v", got)
	}
	reads := strings.HasPrefix(r.Operation, "Describe") || strings.HasPrefix(r.Operation, "List")
	if got := as(reader); (got.Error == denied) == reads || got.Refused != "" {
		t.Errorf("a read-only key gets %+v", got)
	}
	got := as(hurried)
	if got.Error != "ThrottlingException" {
		t.Errorf("a key that calls too often gets %+v", got)
	}
	// Some operations do not declare the exception, so that the SDKs show nothing of it but its name.
	if after, ok := got.Details["RetryAfterSeconds"]; ok && (len(after) < 2 || slices.Contains([]byte(after), '-')) {
		t.Errorf("retry after %q seconds, want most of an hour", after)
	}
}

// TestStrangers: nobody else is heard.
func TestStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range clients(t, w) {
		for key, want := range map[string]string{"AKIDSTRANGER": "UnrecognizedClientException", admin: "InvalidSignatureException"} {
			if got := c.do(t, request{Kind: "call", Operation: "ListServers", Key: key, Secret: "guessed"}); got.Error != want {
				t.Errorf("%s with %s gets %+v, want %s", name, key, got, want)
			}
		}
	}
}

// TestFaults: a catalogue that is broken is an internal error of each operation, and its cause stays inside.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	requests := good(t)
	all := clients(t, w)
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	without := []string{"DescribeSecurityPolicy", "ListSecurityPolicies"} // need no catalogue
	for name, c := range all {
		for _, r := range requests {
			if slices.Contains(without, r.Operation) {
				continue
			}
			r.Key, r.Secret = admin, secret(admin)
			got := c.do(t, r)
			if got.Error != "InternalServiceError" || got.Message == "" {
				t.Errorf("%s, %s: %+v", name, r.Operation, got)
			}
			for _, inside := range []string{"sql", "database", "closed", "/"} {
				if strings.Contains(got.Message, inside) {
					t.Errorf("%s, %s tells callers %q", name, r.Operation, got.Message)
				}
			}
		}
	}
}

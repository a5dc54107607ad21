package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/storage/s3"
)

// updateDocs has TestConfigurationDocs write the page instead of comparing it.
var updateDocs = flag.Bool("update-docs", false, "write docs/configuration.md")

var secrets = map[string]string{
	envAccessKeys: "AKIAOPERATOR:one,AKIAMONITORING:two AKIAONBOARDING:three", envS3AccessKey: "s3id", envS3SecretKey: "s3secret",
	envRoleKeys: "AKIAIDENTITY:four",
}

func environment(more map[string]string) func(string) string {
	return func(name string) string { return more[name] }
}

// TestSampleConfig: the sample is valid, names every key, and its commented keys show the defaults.
func TestSampleConfig(t *testing.T) {
	t.Parallel()
	sample := filepath.Join("..", "..", "deploy", "transferd.yaml")
	f, err := loadFile(sample, environment(secrets))
	if err != nil {
		t.Fatal(err)
	}
	if k := f.config().Keys; len(k) != 3 || k[1].ID != "AKIAMONITORING" || !k[1].ReadOnly || k[1].Secret != "two" || k[2].Operations[3] != "List*" {
		t.Errorf("access keys %+v", k)
	}
	// The same file with everything that is commented out switched on says the same, but for TLS, whose files are none here.
	all := uncommented(string(mustRead(t, sample)))
	for _, k := range keysOf(reflect.TypeFor[configFile](), "") {
		name := k[strings.LastIndex(k, ".")+1:]
		if !strings.Contains(all, "\n"+name+":") && !strings.Contains(all, " "+name+":") {
			t.Errorf("the sample has no key %s", k)
		}
	}
	name := filepath.Join(t.TempDir(), "all.yaml")
	cert := newKeyPair(t, filepath.Dir(name), "localhost")
	all = strings.NewReplacer("/etc/transferd/api.pem", cert.Certificate, "/etc/transferd/api.key", cert.Key,
		"/etc/transferd/ftp.pem", cert.Certificate, "/etc/transferd/ftp.key", cert.Key).Replace(all)
	if err := os.WriteFile(name, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	full, err := loadFile(name, environment(secrets))
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	full.API.TLS, full.Events.Sinks = tlsFile{}, nil
	full.FileSystems, full.Certificates, full.Roles, full.Functions = nil, nil, nil, nil
	for i := range full.API.AccessKeys {
		if len(full.API.AccessKeys[i].Operations) == 0 {
			full.API.AccessKeys[i].Operations = nil
		}
	}
	if !reflect.DeepEqual(full, f) {
		t.Errorf("the commented keys are not the defaults:\n%+v\n%+v", full, f)
	}
}

// uncommented switches on the keys that a sample has as comments: lines of "# key:" or "#   key:".
func uncommented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		space := line[:len(line)-len(strings.TrimLeft(line, " "))]
		if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "# "); ok {
			key, _, found := strings.Cut(strings.TrimSpace(rest), ":")
			if found && strings.IndexFunc(key, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) < 0 {
				line = space + rest
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// keysOf lists the keys of a file, api.tls.key.
func keysOf(t reflect.Type, path string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := path + f.Tag.Get("yaml")
		keys = append(keys, key)
		if inner := structOf(f.Type); inner != nil {
			keys = append(keys, keysOf(inner, key+".")...)
		}
	}
	return keys
}

// structOf is the struct of a section or of a list's items; nil for a value.
func structOf(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.HasSuffix(t.Name(), "File") {
		return nil
	}
	return t
}

// TestConfigErrors: what is wrong is named with its line and its key, all at once, and no secret is repeated.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	const valid = "s3: {access_key: a, secret_key: hush}\napi: {access_keys: [{id: A, secret: hush}]}\n"
	for _, c := range []struct {
		text string
		env  map[string]string
		want string // "": valid
	}{
		{valid, nil, ""},
		{"", secrets, ""},
		{"s3: {access_key: a, secret_key: hush}\n", nil, "api.access_keys: is empty"},
		{valid, map[string]string{envAccessKeys: "A"}, envAccessKeys + ": entry 1 is not ID:SECRET"},
		{"api: {access_keys: [{id: A}]}", map[string]string{envS3AccessKey: "a", envS3SecretKey: "hush"}, "line 1: api.access_keys[0]: needs a secret"},
		{valid + "regoin: x\n", nil, "line 3: regoin: unknown key; is it region?"},
		{valid + "account: 12\n", nil, "line 3: account: must have 12 digits"},
		{valid + "account: 000000000012\n", nil, ""},
		{valid + "buffers: 1TiB\n", nil, "line 3: buffers: must be a number of bytes"},
		{valid + "buffers: 10MiB\n", nil, "line 3: buffers: must be at least 64MiB"},
		{valid + "drain: 10\n", nil, "line 3: drain: must be a duration"},
		{valid + "sftp:\n  ports: 99-1\n", nil, "line 4: sftp.ports: must be ports such as"},
		{valid + "sftp:\n  host: a:22\n", nil, "line 4: sftp.host: must be an address"},
		{valid + "log: {level: loud}\n", nil, "line 3: log.level: must be debug"},
		{valid + "limits:\n  servers: -1\n", nil, "line 4: limits.servers: must not be negative"},
		{"s3: {access_key: a, secret_key: hush, endpoint: hush}\napi: {access_keys: [{id: A, secret: hush}]}\n", nil, "line 1: s3.endpoint: must be a URL"},
		{"s3: {}\napi:\n  access_keys:\n    - {id: A, secret: hush, operations: [CreateSever]}\n", secrets, `line 4: api.access_keys[0]: access key id "A": there is no operation "CreateSever"`},
		{"api:\n  access_keys:\n    - {id: A, secret: hush}\n    - {id: A, secret: hush}\n", secrets, "line 4: api.access_keys[1].id: stands here a second time"},
		{valid + "ftp:\n  host: a:21\n", nil, "line 4: ftp.host: must be an address"},
		{valid + "certificates: {\"arn:c\": {certificate: /nowhere, key: /nowhere}}\n", nil, "line 3: certificates: certificate arn:c: stat /nowhere"},
		{valid + "identity:\n  users_file: /nowhere\n", nil, "line 4: identity.users_file: "},
		{valid + "ftp:\n  idle: 0s\n", nil, "line 4: ftp.idle: must be more than 0"},
		{valid + "ftp:\n  passive_addresses: {10.0.0.0/99: 10.0.0.1}\n", nil, "line 4: ftp.passive_addresses.10.0.0.0/99: must be a network"},
		{valid + "ftp:\n  passive_addresses:\n    10.0.0.0/8: \"::1\"\n", nil, "line 5: ftp.passive_addresses.10.0.0.0/8: must be an IPv4 address"},
		{valid + "ftp:\n  proxy_data: true\n", nil, "line 4: ftp.proxy_data: needs proxy_protocol"},
		{valid + "ftp:\n  proxy_keeps_tcp: true\n", nil, "line 4: ftp.proxy_keeps_tcp: needs proxy_protocol"},
		{valid + "ftp:\n  max_per_address: -1\n", nil, "line 4: ftp.max_per_address: must not be negative"},
		{valid + "sftp:\n  proxy_protocol: [here]\n", nil, "line 4: sftp.proxy_protocol: must be networks"},
		{valid + "identity: {guard: {delay: 3s, max_delay: 2s}}\n", nil, "line 3: identity.guard.max_delay: must not be less"},
		{valid + "identity: {guard: {exempt: [10.0.0.0.0/8]}}\n", nil, "line 3: identity.guard.exempt: must be networks"},
		{valid + "file_systems: {fs-1: {directory: /}}\n", nil, "line 3: file_systems.fs-1: must be an id"},
		{valid + "file_systems: {fs-01234567: {}}\n", nil, "line 3: file_systems.fs-01234567: needs a directory"},
		{valid + "file_systems: {fs-01234567: {directory: /nowhere}}\n", nil, "line 3: file_systems.fs-01234567.directory: stat /nowhere"},
		{valid + "file_systems: {fs-01234567: {directory: /dev/null}}\n", nil, "is no directory"},
		{valid + "file_systems: {fs-01234567: {directory: /, durable: sometimes}}\n", nil, "must be true or false"},
		{valid + "roles: {\"arn:r\": {access_key: a}}\n", nil, "line 3: roles.arn:r: needs a secret_key: " + envRoleKeys + "=a:SECRET"},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"http://example.com\"}}\n", nil, "line 3: functions.arn:aws:lambda:f: url must be an https URL"},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"https://example.com\"}}\n", nil, "needs a secret: " + envFunctionSecrets + "=arn:aws:lambda:f=SECRET"},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"https://example.com\"}}\n", map[string]string{envFunctionSecrets: "arn:aws:lambda:f=s"}, ""},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"http://[::1]:80\", secret: s}}\n", nil, ""},
		{valid + "functions: {\"arn:aws:lambda:f\": {}}\n", nil, "needs exactly one of url, lambda and command"},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"https://example.com\", secret: s, command: [/bin/sh]}}\n", nil, "needs exactly one of"},
		{valid + "functions: {\"arn:aws:sns:f\": {command: [/bin/sh]}}\n", nil, "is no ARN of a Lambda function"},
		{valid + "functions: {\"arn:aws:lambda:f\": {command: [sh]}}\n", nil, "absolute path"},
		{valid + "functions: {\"arn:aws:lambda:f\": {command: [/nowhere/sh]}}\n", nil, "/nowhere/sh is no program"},
		{valid + "functions: {\"arn:aws:lambda:f\": {lambda: {endpoint: x}}}\n", nil, "lambda needs an access_key"},
		{valid + "functions: {\"arn:aws:lambda:f\": {url: \"https://example.com\", secret: s, env: {A: b}}}\n", nil, "are for commands"},
		{valid + "events: {retention: 0s}\n", nil, "line 3: events.retention: must be more than 0"},
		{valid + "events: {sinks: {a: {}}}\n", nil, "events.sinks.a: needs exactly one of url, file, sqs, sns and eventbridge"},
		{valid + "events: {sinks: {a b: {file: x}}}\n", nil, "file must be an absolute path"},
		{valid + "events: {sinks: {a: {url: http://h.example.com}}}\n", nil, "url must be an https URL"},
		{valid + "events: {sinks: {a: {url: https://h.example.com}}}\n", nil, "needs a secret: TRANSFERD_EVENT_SECRETS=a=SECRET"},
		{valid + "events: {sinks: {a: {url: https://h.example.com, secret: s, ca: /dev/null}}}\n", nil, "ca: /dev/null holds no certificate"},
		{valid + "events: {sinks: {a: {eventbridge: b, access_key: k, secret_key: s, source: aws.x, format: cloudevents}}}\n", nil, "source must not begin with aws."},
		{valid, map[string]string{envEventSecrets: "a"}, "TRANSFERD_EVENT_SECRETS: entry 1 is not NAME=SECRET"},
		{valid + "secrets: {aws/transfer/s-0/mary: /nowhere}\n", nil, "line 3: secrets.aws/transfer/s-0/mary: must be aws/transfer/SERVER-ID/USERNAME"},
		{valid + "secrets: {aws/transfer/s-01234567890abcdef/mary: /nowhere}\n", nil, "line 3: secrets.aws/transfer/s-01234567890abcdef/mary: open /nowhere"},
		{valid + "secrets: {aws/transfer/s-01234567890abcdef/@pgp-default: /dev/null}\n", nil, "it is no JSON object"},
		{valid + "roles: {\"arn:r\": {secret_key: hush}}\n", nil, "line 3: roles.arn:r: needs an access_key"},
		{valid + "roles:\n  \"arn:r\":\n    endpoint: hush\n", nil, "line 5: roles.arn:r.endpoint: must be a URL"},
		{valid + "roles: {\"arn:r\": {ca_file: /nowhere}}\n", nil, "line 3: roles.arn:r: certificates to trust: open /nowhere"},
		{valid + "roles: {\"arn:r\": {proxy: \"hush:hush\"}}\n", nil, "line 3: roles.arn:r: the proxy is no URL"},
		{valid + "roles: {\"arn:r\": {environment: true, access_key: a, secret_key: hush}}\n", nil, "line 3: roles.arn:r: credentials come from an access key or from the environment"},
		{valid + "roles: {\"arn:r\": {assume_role: {}, web_identity: {token_file: /t}}}\n", nil, "line 3: roles.arn:r: has assume_role or web_identity"},
		{valid + "roles: {\"arn:r\": {assume_role: {duration: 1m}}}\n", nil, "line 3: roles.arn:r: a role is borrowed for 15 minutes"},
		{valid + "roles: {\"arn:r\": {assume_role: {sts_endpoint: hush}}}\n", nil, "line 3: roles.arn:r: its sts_endpoint must be a URL"},
		{valid + "roles: {\"arn:r\": {web_identity: {}}}\n", nil, "line 3: roles.arn:r.web_identity: needs a token_file"},
		{valid + "roles: {\"arn:r\": {assume_role: {}}, \"arn:q\": {endpoint: \"https://x\"}}\n", nil, ""},
		{"api: {access_keys: [{id: A, secret: hush}]}\ns3: {assume_role: {external_id: x}, environment: true}\n", nil, "line 2: s3: a role needs its ARN"},
		{"api: {access_keys: [{id: A, secret: hush}]}\ns3: {environment: true}\n", nil, ""},
		{"api: {access_keys: [{id: A, secret: hush}]}\ns3: {web_identity: {role_arn: r, token_file: /t}}\n", nil, ""},
		{valid + "roles: {\"arn:r\": {access_key: a}}\n", map[string]string{envRoleKeys: "a:b"}, ""},
		{valid + "database: db.example.com\n", nil, "line 3: database: must be a URL such as postgres://"},
		{valid, map[string]string{envDatabase: "postgres://u:hush@db/x"}, ""},
		{valid, map[string]string{envRoleKeys: "hush"}, envRoleKeys + ": entry 1 is not ID:SECRET"},
		{"api:\n  tls: {certificate: /nowhere}\n", secrets, "line 2: api.tls: needs both"},
		{"api:\n  tls: {certificate: /nowhere, key: /nowhere}\n", secrets, "line 2: api.tls: stat /nowhere"},
	} {
		name := filepath.Join(t.TempDir(), "t.yaml")
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadFile(name, environment(c.env))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.text, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: error %v, want %q", c.text, err, c.want)
		case err != nil && strings.Contains(err.Error(), "hush"):
			t.Errorf("%q: the error repeats a secret: %v", c.text, err)
		}
	}
}

// TestConfigurationDocs: docs/configuration.md is made of the comments of the struct, so it cannot lie.
func TestConfigurationDocs(t *testing.T) {
	t.Parallel()
	page := filepath.Join("..", "..", "docs", "configuration.md")
	want := configurationPage(t)
	if *updateDocs {
		if err := os.WriteFile(page, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := mustRead(t, page); !bytes.Equal(got, want) {
		t.Errorf("docs/configuration.md is not what the struct says; write it with: go test ./cmd/transferd -run TestConfigurationDocs -update-docs")
	}
}

func configurationPage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("# Configuration of `transferd serve`\n\n" +
		"One YAML file, given with `-config`. Keys that are not below are errors, which name the line; `transferd serve -config FILE -check`\n" +
		"says what is wrong and serves nothing. [deploy/transferd.yaml](../deploy/transferd.yaml) is a file to begin with. This page is made of\n" +
		"the comments of the struct `configFile` by a test.\n\n" +
		"| variable | what it holds; it wins over the file |\n|---|---|\n" +
		"| `" + envAccessKeys + "` | secrets of the control API's access keys, `ID:SECRET`, several with spaces or commas between them. An id that the file does not have is a key that may do everything |\n" +
		"| `" + envS3AccessKey + "`, `" + envS3SecretKey + "`, `" + envS3SessionToken + "` | credentials for the object store |\n" +
		"| `" + envDatabase + "` | the URL of the PostgreSQL database, which may hold a password |\n" +
		"| `" + envRoleKeys + "` | secrets of the access keys of roles, `ID:SECRET`, as above |\n" +
		"| `" + envFunctionSecrets + "` | secrets of functions, `ARN=SECRET`, several with spaces or commas between them |\n" +
		"| `" + envEventSecrets + "` | secrets of sinks of events, `NAME=SECRET`, several with spaces or commas between them |\n\n" +
		"| key | default | meaning |\n|---|---|---|\n")
	comments := fieldComments(t, "configfile.go")
	for _, name := range []string{"configftp.go", "configroles.go", "events.go"} {
		maps.Copy(comments, fieldComments(t, name))
	}
	defaults := defaultFile()
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := path + f.Tag.Get("yaml")
			comment := comments[v.Type().Name()+"."+f.Name]
			if comment == "" {
				t.Errorf("%s has no comment", key)
			}
			inner := structOf(f.Type)
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", key, showDefault(v.Field(i), inner != nil), comment)
			switch {
			case inner == nil:
			case f.Type.Kind() == reflect.Slice:
				walk(reflect.New(inner).Elem(), key+"[].")
			default:
				walk(v.Field(i), key+".")
			}
		}
	}
	walk(reflect.ValueOf(defaults), "")
	return b.Bytes()
}

func showDefault(v reflect.Value, section bool) string {
	if section || v.Kind() == reflect.Slice {
		return ""
	}
	text := fmt.Sprint(v.Interface())
	if d, ok := v.Interface().(time.Duration); ok {
		text = shortDuration(d)
	}
	if text == "" || text == "map[]" || text == "<nil>" {
		return ""
	}
	return "`" + text + "`"
}

// shortDuration leaves out the zeros that String prints: 30m0s is 30m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// fieldComments reads the comments of the fields of a file's structs: Struct.Field → text.
func fieldComments(t *testing.T, name string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				for _, id := range f.Names {
					comments[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
		}
		return true
	})
	return comments
}

// TestConfigValues: what the file says arrives in the one Config struct.
func TestConfigValues(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "t.yaml")
	dev := devFlags{data: t.TempDir()}
	if err := dev.ftpFiles(&devState{}); err != nil {
		t.Fatal(err)
	}
	text := `
data: /d
database: postgres://u@h/d
region: eu-central-1
account: 123456789012
api: {listen: 127.0.0.1:1, access_keys: [{id: A, secret: s, read_only: true, operations: [ListServers], requests_per_second: 1.5, burst: 3}]}
metrics: {listen: 127.0.0.1:2}
sftp: {host: 10.0.0.1, ports: 5000, keepalive: 1s, keepalive_max: 2, idle: 3s, max_sessions: 4, proxy_protocol: ["2001:db8::1"]}
s3: {endpoint: http://s3, access_key: a, secret_key: b, session_token: c, path_style: false, retry: 5s, unsigned_payload: true, assume_role: {role_arn: "arn:own", external_id: e, sts_endpoint: "http://sts", duration: 20m}, proxy: "http://p", ca_file: ` + dev.certificate().Certificate + `}
buffers: 64MiB
uploads: {temp_names: ["*.part"], rename_timeout: 31s, rename_grace: 32s, integrity: true}
workers: 6
drain: 7s
retention: 0s
limits: {servers: 1, users_per_server: 2, keys_per_user: 3, mappings_per_user: 4, workflows: 5, accesses_per_server: 6}
log: {file: /l, level: warn}
ftp: {host: 10.0.0.2, ports: 6000-6001, passive_ports: 7000-7001, implicit_tls: true, proxy_protocol: [10.1.0.0/16], proxy_data: true, proxy_keeps_tcp: true, idle: 11s, data_timeout: 12s, login_delay: 13s, max_sessions: 14, max_per_address: 15, passive_addresses: {0.0.0.0/0: ftp.example.com, 10.0.0.9/8: 10.0.0.1, 10.9.9.9: 10.0.0.2}}
certificates: {"arn:c": {certificate: ` + dev.certificate().Certificate + `, key: ` + dev.certificate().Key + `}}
identity: {users_file: ` + dev.usersFile() + `, guard: {window: 21s, delay_after: 22, delay: 23ms, max_delay: 24s, ban_after: 0, ban_for: 26s, exempt: [192.0.2.1, "2001:db8::/32"]}}
throttle: {executions_per_second: 2.5, executions_burst: 7}
functions:
  arn:aws:lambda:us-east-1:1:function:u: {url: https://f.example.com/x, secret: s, timeout: 9s}
  arn:aws:lambda:us-east-1:1:function:l: {lambda: {endpoint: http://l, region: r, access_key: k, session_token: t, function: n, respond: true}}
  arn:aws:lambda:us-east-1:1:function:c: {command: [/bin/sh, -c, x], env: {B: b, A: a}, dir: /tmp, memory: 64MiB, output: 1KiB}
secrets: {aws/transfer/s-01234567890abcdef/mary: ` + secretFile(t) + `}
events: {retention: 25h, dead_retention: 26h, sinks: {hook: {url: https://h.example.com/x, format: cloudevents, kinds: [upload, rename], tries: 5, give_up: 27m, timeout: 4s, parallel: 3}, q: {sqs: https://q.example.com/1/q, region: r, access_key: k}}}
file_systems: {fs-01234567: {directory: ` + t.TempDir() + `, durable: false, atomic_names: true}}
roles: {"arn:r": {access_key: rid, session_token: rtoken}, "arn:q": {access_key: q, secret_key: qs}, "arn:w": {endpoint: "http://w", region: rw, path_style: true, web_identity: {token_file: /token}}, "arn:e": {environment: true, assume_role: {}}}
`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := loadFile(name, environment(map[string]string{envAccessKeys: "B:t", envRoleKeys: "rid:rsecret,nobody:x",
		envFunctionSecrets: "arn:aws:lambda:us-east-1:1:function:l=ls arn:x=y",
		envEventSecrets:    "hook=hs q=qs,other=x"}))
	if err != nil {
		t.Fatal(err)
	}
	c := f.config()
	got := fmt.Sprintf("%+v", c)
	for _, want := range []string{
		"Data:/d", "Database:postgres://u@h/d", "{Region:eu-central-1 Account:123456789012}", "{ID:A Secret:s Operations:[ListServers] ReadOnly:true RequestsPerSecond:1.5 Burst:3}",
		"{ID:B Secret:t Operations:[] ReadOnly:false RequestsPerSecond:0 Burst:0}", "API:127.0.0.1:1", "Metrics:127.0.0.1:2",
		"{Host:10.0.0.1 First:5000 Last:5000 Keepalive:1s KeepaliveMax:2 Idle:3s MaxSessions:4 Proxies:[2001:db8::1/128]}",
		"{Host:10.0.0.2 First:6000 Last:6001 PassiveFirst:7000 PassiveLast:7001 PassiveAddresses:[{Clients:10.9.9.9/32 Address:10.0.0.2} {Clients:10.0.0.0/8 Address:10.0.0.1} {Clients:0.0.0.0/0 Address:ftp.example.com}] Proxies:[10.1.0.0/16] ProxyData:true ProxyKeepsTCP:true Implicit:true Idle:11s DataTimeout:12s LoginDelay:13s MaxSessions:14 MaxPerAddress:15}",
		"Guard:{Window:21s DelayAfter:22 Delay:23ms MaxDelay:24s BanAfter:-1 BanFor:26s Exempt:[192.0.2.1/32 2001:db8::/32]}",
		"function:u:{URL:https://f.example.com/x Secret:s Lambda:{Endpoint: Region: AccessKey: SecretKey: SessionToken: Function: Respond:false} Command:[] Env:map[] Dir: Timeout:9s Memory:0 Output:0}",
		"{Endpoint:http://l Region:r AccessKey:k SecretKey:ls SessionToken:t Function:n Respond:true}",
		"Command:[/bin/sh -c x] Env:map[A:a B:b] Dir:/tmp Timeout:0s Memory:64MiB Output:1KiB}",
		"Secrets:map[aws/transfer/s-01234567890abcdef/mary:/",
		"hook:{URL:https://h.example.com/x Secret:hs CA: File: Sync:<nil> SQS: SNS: EventBridge: Endpoint: Region: AccessKey: SecretKey: SessionToken: Format:cloudevents Source: Kinds:[upload rename] Timeout:4s Tries:5 GiveUp:27m0s Parallel:3}",
		"SQS:https://q.example.com/1/q SNS: EventBridge: Endpoint: Region:r AccessKey:k SecretKey:qs SessionToken:", "Retention:25h0m0s DeadRetention:26h0m0s}",
		"arn:r:{AccessKeyID:rid SecretKey:rsecret SessionToken:rtoken}", "arn:q:{AccessKeyID:q SecretKey:qs SessionToken:}", "UsersFile:" + dev.usersFile(),
		fmt.Sprintf("Certificates:map[arn:c:%+v]", dev.certificate()),
		"{Endpoint:http://s3 Region:eu-central-1 AccessKey:a SecretKey:b SessionToken:c PathStyle:false RetryBudget:5s Unsigned:true Environment:false Role:0x",
		"fs-01234567:{Dir:/", "Durable:false AtomicNames:true OwnIdentityOnly:false}", "Throttle:{PerSecond:2.5 Burst:7}", "Buffers:67108864", "Uploads:{TempNames:[*.part] RenameTimeout:31s RenameGrace:32s Integrity:true}", "Workers:6", "Drain:7s", "Retention:0s",
		"{Servers:1 UsersPerServer:2 KeysPerUser:3 MappingsPerUser:4 Workflows:5 AccessesPerServer:6}", "Level:WARN",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("Config has no %s:\n%s", want, got)
		}
	}
	for arn, want := range map[string]s3.Role{
		"":      {ARN: "arn:own", ExternalID: "e", Endpoint: "http://sts", Duration: 20 * time.Minute},
		"arn:w": {ARN: "arn:w", TokenFile: "/token"},
		"arn:e": {ARN: "arn:e"},
	} {
		role := c.S3Roles[arn].Role
		if arn == "" {
			role = c.S3.Role
		}
		if role == nil || *role != want {
			t.Errorf("role %q is %+v, want %+v", arn, role, want)
		}
	}
	role := func(arn string) string { // without the role to borrow
		r := c.S3Roles[arn]
		r.Role = nil
		return fmt.Sprintf("%+v", r)
	}
	rest := "RetryBudget:5s Unsigned:true Environment:false Role:<nil> CAFile:" + dev.certificate().Certificate + " Proxy:http://p}"
	if got, want := role("arn:w"), "{Endpoint:http://w Region:rw AccessKey: SecretKey: SessionToken: PathStyle:true "+rest; got != want {
		t.Errorf("role arn:w is %s, want %s", got, want)
	}
	if got, want := role("arn:r"), "{Endpoint:http://s3 Region:eu-central-1 AccessKey:rid SecretKey:rsecret SessionToken:rtoken PathStyle:false "+rest; got != want {
		t.Errorf("role arn:r is %s, want %s", got, want)
	}
	// Every key of the file is in the text above, so that none is forgotten.
	keys := map[string]bool{}
	for _, k := range keysOf(reflect.TypeFor[configFile](), "") {
		keys[k[strings.LastIndex(k, ".")+1:]] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if !strings.Contains(text, k+":") && k != "tls" && k != "certificate" && k != "key" {
			t.Errorf("this test does not set %s", k)
		}
	}
}

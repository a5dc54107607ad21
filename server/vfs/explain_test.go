package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
)

// TestExplainIsTrue: what Explain says is what happens, for files and directories that are there.
func TestExplainIsTrue(t *testing.T) {
	t.Parallel()
	const file, dir, none = "/bucket/home/a/file", "/bucket/home/a/dir", "/bucket/home/a/none"
	policies := []string{
		``, allHome, listHome + readHome[:len(readHome)-1],
		`{"Effect":"Allow","Action":"s3:PutObject","Resource":"*"}`,
		`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*","Condition":{"StringEquals":{"s3:prefix":["home/a/dir/","home/"]}}}`,
		`{"Effect":"Allow","Action":"s3:ListBucket","Resource":"*","Condition":{"StringEquals":{"s3:prefix":"home/a/"}}}`,
		`{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/home/a/file"}`,
		`{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"s3:DeleteObject","Resource":"*"}`,
		`{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"s3:PutObject","Resource":"arn:aws:s3:::bucket/home/a/*-renamed"}`,
		`{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"s3:GetObject","NotResource":"arn:aws:s3:::bucket/*/"}`,
		`{"Effect":"Allow","NotAction":["s3:GetObject","s3:DeleteObject"],"Resource":"arn:aws:s3:::bucket*"}`,
	}
	for _, policy := range policies {
		for operation, name := range map[string]string{"get": file, "put": none, "append": file, "list": dir, "mkdir": none, "delete": file, "rmdir": dir, "rename": file, "stat": file} {
			for _, name := range []string{name, "/bucket", "/else/x"} {
				if name == "/bucket" && operation == "list" {
					continue // a listing of the root is empty here, and S3's is not
				}
				s := filled(t, "home/a/file", "home/a/dir/")
				f := limited(t, s, policy)
				q := vfs.Question{Operation: operation, Path: name}
				if operation == "rename" {
					q.To = name + "-renamed"
				}
				x, err := f.Explain(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				err = operations(t.Context(), f)[operation](name)
				if x.Allowed != (err == nil) {
					t.Errorf("policy %s: %s %s: explained %+v, done %v", policy, operation, name, x, err)
				}
				if last := x.Rules[len(x.Rules)-1]; operation != "stat" && last.Allowed != x.Allowed {
					t.Errorf("the last rule is not the one that decides: %+v", x)
				}
			}
		}
	}
}

func TestExplainRules(t *testing.T) {
	t.Parallel()
	logical := logicalHome()
	withPolicy := pathHome()
	withPolicy.Policy = `{"Version":"2012-10-17","Statement":[{"Sid":"Own","Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::${transfer:HomeDirectory}/*"}]}`
	efs := vfs.Home{Domain: "EFS", Directory: "/fs-1/x", PosixProfile: &server.PosixProfile{Uid: 7, Gid: 8, SecondaryGids: []int64{9}}, Policy: `{"Statement":[]}`}
	nobody := efs
	nobody.PosixProfile = nil
	for _, c := range []struct {
		home vfs.Home
		q    vfs.Question
		want string // allowed, where it lies, kinds of rules, and a text of the last
	}{
		{pathHome(), vfs.Question{Operation: "put", Path: "x"}, "true /bucket/home/anna/x home policy|has no session policy"},
		{pathHome(), vfs.Question{Operation: "put", Path: "/other/x"}, "false  home|does not reach /other/x"},
		{pathHome(), vfs.Question{Operation: "put", Path: "a\x00"}, "false  home|is no name"},
		{pathHome(), vfs.Question{Operation: "delete", Path: "/bucket"}, "false /bucket home|/bucket is /bucket, a directory of the home itself: it cannot be taken away"},
		{logical, vfs.Question{Operation: "put", Path: "/in/daily/x"}, "true /bucket/shared/in/x mapping policy|has no session policy"},
		{logical, vfs.Question{Operation: "put", Path: "/in"}, "false  mapping|nothing is written there"},
		{logical, vfs.Question{Operation: "list", Path: "/in"}, "true  mapping|is listed"},
		{logical, vfs.Question{Operation: "rename", Path: "/in/daily/x", To: "/none"}, "false /bucket/shared/in/x mapping home|does not reach /none"},
		{withPolicy, vfs.Question{Operation: "get", Path: "x"}, "true /bucket/home/anna/x home policy|allowed by Statement[0] (Sid Own)"},
		{withPolicy, vfs.Question{Operation: "list", Path: "."}, `false /bucket/home/anna home policy|s3:ListBucket on arn:aws:s3:::bucket with s3:prefix "home/anna/": denied: no statement allows it`},
		{withPolicy, vfs.Question{Operation: "rename", Path: "x", To: "../y"}, "false /bucket/home/anna/x home home policy policy policy|s3:PutObject on arn:aws:s3:::bucket/home/y: denied"},
		{efs, vfs.Question{Operation: "put", Path: "x"}, "false /fs-1/x/x home posix posix|no session begins"},
		{nobody, vfs.Question{Operation: "put", Path: "x"}, "false /fs-1/x/x home posix|no PosixProfile"},
	} {
		f, err := vfs.New(c.home, newStores())
		if err != nil {
			t.Fatal(err)
		}
		x, err := f.Explain(t.Context(), c.q)
		if err != nil {
			t.Fatal(err)
		}
		kinds := []string{}
		for _, r := range x.Rules {
			kinds = append(kinds, r.Kind)
		}
		got := fmt.Sprintf("%v %s %s", x.Allowed, x.At, strings.Join(kinds, " "))
		want, text, _ := strings.Cut(c.want, "|")
		if got != want || !strings.Contains(x.Rules[len(x.Rules)-1].Text, text) {
			t.Errorf("%+v: %+v\nwant %s, %s", c.q, x, want, text)
		}
	}
	f, _ := open(t, pathHome())
	for _, q := range []vfs.Question{{Operation: "chmod", Path: "x"}, {Operation: "rename", Path: "x"}, {Operation: "put", Path: "x", To: "y"}} {
		if _, err := f.Explain(t.Context(), q); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

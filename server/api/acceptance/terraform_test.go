package acceptance_test

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// terraform repeats what the aws provider of Terraform does, call by call and member by member, as its source says
// (hashicorp/terraform-provider-aws, internal/service/transfer): which members it sends when, what it waits for, and
// which exceptions it counts on. docs/terraform.md tells what that shows and what not.
type terraform struct {
	t   *testing.T
	sdk *transfer.Client
}

func newTerraform(t *testing.T) terraform {
	t.Helper()
	return terraform{t: t, sdk: newWorld(t).client(admin)}
}

// isMissing says whether the provider would take a thing for gone: it looks at the exception's type.
func isMissing(err error) bool {
	_, ok := errors.AsType[*types.ResourceNotFoundException](err)
	return ok
}

// destroyServer deletes a server; with force its users first. The provider then looks until the server is not found.
func (tf terraform) destroyServer(id string, force bool) {
	tf.t.Helper()
	if force {
		pages := transfer.NewListUsersPaginator(tf.sdk, &transfer.ListUsersInput{ServerId: &id})
		for pages.HasMorePages() {
			for _, u := range must[*transfer.ListUsersOutput](tf.t)(pages.NextPage(tf.t.Context())).Users {
				tf.destroyUser(id, *u.UserName)
			}
		}
	}
	if _, err := tf.sdk.DeleteServer(tf.t.Context(), &transfer.DeleteServerInput{ServerId: &id}); err != nil && !isMissing(err) {
		tf.t.Error(err)
	}
	if _, err := tf.sdk.DescribeServer(tf.t.Context(), &transfer.DescribeServerInput{ServerId: &id}); !isMissing(err) {
		tf.t.Errorf("a deleted server: %v", err)
	}
}

func (tf terraform) destroyUser(id, name string) {
	tf.t.Helper()
	if _, err := tf.sdk.DeleteUser(tf.t.Context(), &transfer.DeleteUserInput{ServerId: &id, UserName: &name}); err != nil && !isMissing(err) {
		tf.t.Error(err)
	}
	if _, err := tf.sdk.DescribeUser(tf.t.Context(), &transfer.DescribeUserInput{ServerId: &id, UserName: &name}); !isMissing(err) {
		tf.t.Errorf("a deleted user: %v", err)
	}
}

func (tf terraform) newWorkflow() string {
	return *must[*transfer.CreateWorkflowOutput](tf.t)(tf.sdk.CreateWorkflow(tf.t.Context(), &transfer.CreateWorkflowInput{
		Steps: []types.WorkflowStep{{Type: types.WorkflowStepTypeDelete, DeleteStepDetails: &types.DeleteStepDetails{}}},
	})).WorkflowId
}

func (tf terraform) hasHostKey(id, fingerprint string) {
	tf.t.Helper()
	list := must[*transfer.ListHostKeysOutput](tf.t)(tf.sdk.ListHostKeys(tf.t.Context(), &transfer.ListHostKeysInput{ServerId: &id}))
	if !slices.ContainsFunc(list.HostKeys, func(k types.ListedHostKey) bool { return text(k.Fingerprint) == fingerprint }) {
		tf.t.Errorf("no host key %s", fingerprint)
	}
}

// retag changes the tags of a resource: first away with the old, then the new and the changed.
func (tf terraform) retag(resource string, from, to map[string]string) {
	tf.t.Helper()
	arn := arnOf(resource)
	var gone []string
	for k := range from {
		if _, stays := to[k]; !stays {
			gone = append(gone, k)
		}
	}
	if len(gone) > 0 {
		must[*transfer.UntagResourceOutput](tf.t)(tf.sdk.UntagResource(tf.t.Context(), &transfer.UntagResourceInput{Arn: &arn, TagKeys: gone}))
	}
	fresh := maps.Clone(to)
	maps.DeleteFunc(fresh, func(k, v string) bool { old, was := from[k]; return was && old == v })
	if len(fresh) > 0 {
		must[*transfer.TagResourceOutput](tf.t)(tf.sdk.TagResource(tf.t.Context(), &transfer.TagResourceInput{Arn: &arn, Tags: tagList(fresh)}))
	}
}

func arnOf(resource string) string {
	return "arn:aws:transfer:" + region + ":" + account + ":" + resource
}

// tagList are tags as the provider sends them; without tags it sends no list.
func tagList(m map[string]string) []types.Tag {
	var list []types.Tag
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, types.Tag{Key: &k, Value: new(m[k])})
	}
	return list
}

// tagMap are tags as the provider reads them: those of AWS are none of its business.
func tagMap(list []types.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range list {
		if !strings.HasPrefix(*t.Key, "aws:") {
			m[*t.Key] = *t.Value
		}
	}
	return m
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func unlessEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// changed is what is sent of an argument that may have changed: an empty text clears it.
func changed(from, to string) *string {
	if from == to {
		return nil
	}
	return &to
}

// homeBlock is what aws_transfer_user and aws_transfer_access have in common.
type homeBlock struct {
	Directory, Type, Policy, Role string
	Mappings                      []types.HomeDirectoryMapEntry
	Posix                         *types.PosixProfile
}

// homes are blocks of a life: each is an update of the one before it.
func homes() []homeBlock {
	mappings := []types.HomeDirectoryMapEntry{
		{Entry: new("/in"), Target: new("/bucket/${Transfer:UserName}/in")}, {Entry: new("/out"), Target: new("/other/out")},
	}
	policy := `{"Statement":[{"Action":"s3:GetObject","Effect":"Allow","Resource":"arn:aws:s3:::${transfer:HomeBucket}/*"}],"Version":"2012-10-17"}`
	return []homeBlock{
		{Type: "PATH", Role: role},
		{Type: "PATH", Role: role, Directory: "/bucket/anna"},
		{Type: "PATH", Role: role2, Directory: "/bucket/anna"},
		{Type: "PATH", Role: role2, Directory: "/bucket/anna", Policy: policy},
		{Type: "PATH", Role: role2, Directory: "/bucket/anna", Policy: strings.ReplaceAll(policy, "Get", "Put")},
		{Type: "PATH", Role: role2, Directory: "/bucket/anna"},
		{Type: "PATH", Role: role2},
		{Type: "LOGICAL", Role: role2, Mappings: mappings},
		{Type: "LOGICAL", Role: role2, Mappings: mappings[:1]},
		{Type: "PATH", Role: role, Directory: "/bucket/anna"},
		{Type: "LOGICAL", Role: role, Mappings: mappings},
	}
}

func (b homeBlock) judge(t *testing.T, got homeBlock) {
	t.Helper()
	if b.Policy != got.Policy && sameJSON(t, b.Policy, got.Policy) {
		got.Policy = b.Policy // the provider suppresses such a difference
	}
	if !reflect.DeepEqual(b, got) {
		t.Errorf("the plan is not empty:\nread %+v\nwant %+v", got, b)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	if a == "" || b == "" {
		return a == b
	}
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// TestTerraformUser walks an aws_transfer_user through a life, with tags and posix_profile.
func TestTerraformUser(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	for _, domain := range []string{"S3", "EFS"} {
		server := bareServer()
		server.Domain = domain
		id := tf.createServer(server)
		blocks := homes()
		if domain == "EFS" {
			blocks = []homeBlock{
				{Type: "PATH", Role: role, Posix: &types.PosixProfile{Uid: new(int64(1000)), Gid: new(int64(1000))}},
				{Type: "PATH", Role: role, Posix: &types.PosixProfile{Uid: new(int64(0)), Gid: new(int64(4294967295)), SecondaryGids: []int64{1, 2}}},
				{Type: "PATH", Role: role, Directory: "/fs-0123456789abcdef0/anna", Posix: &types.PosixProfile{Uid: new(int64(0)), Gid: new(int64(0))}},
			}
		}
		last := blocks[0]
		must[*transfer.CreateUserOutput](t)(tf.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{
			ServerId: &id, UserName: new("anna"), Role: &last.Role, HomeDirectoryType: types.HomeDirectoryType(last.Type), PosixProfile: last.Posix,
			Tags: tagList(map[string]string{"a": "1", "b": "2"}),
		}))
		tf.userIsClean(id, last, map[string]string{"a": "1", "b": "2"})
		for i, next := range blocks[1:] {
			in := &transfer.UpdateUserInput{
				ServerId: &id, UserName: new("anna"), HomeDirectory: changed(last.Directory, next.Directory),
				Policy: changed(last.Policy, next.Policy), Role: changed(last.Role, next.Role),
			}
			if next.Type != last.Type {
				in.HomeDirectoryType = types.HomeDirectoryType(next.Type)
			}
			if !reflect.DeepEqual(next.Mappings, last.Mappings) {
				in.HomeDirectoryMappings = next.Mappings
			}
			if !reflect.DeepEqual(next.Posix, last.Posix) {
				in.PosixProfile = next.Posix
			}
			must[*transfer.UpdateUserOutput](t)(tf.sdk.UpdateUser(t.Context(), in))
			tf.userIsClean(id, next, map[string]string{"a": "1", "b": "2"})
			if t.Failed() {
				t.Fatalf("update %d of a user in %s", i+1, domain)
			}
			last = next
		}
		tf.retag("user/"+id+"/anna", map[string]string{"a": "1", "b": "2"}, map[string]string{"b": "3", "c": "4"})
		tf.userIsClean(id, last, map[string]string{"b": "3", "c": "4"})
		tf.destroyUser(id, "anna")
		tf.destroyUser(id, "anna")
		must[*transfer.CreateUserOutput](t)(tf.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{
			ServerId: &id, UserName: new("otto"), Role: new(role), HomeDirectoryType: types.HomeDirectoryTypePath, PosixProfile: last.Posix,
		}))
		tf.destroyServer(id, true)
	}
}

func (tf terraform) userIsClean(id string, want homeBlock, tags map[string]string) {
	tf.t.Helper()
	u := must[*transfer.DescribeUserOutput](tf.t)(tf.sdk.DescribeUser(tf.t.Context(), &transfer.DescribeUserInput{ServerId: &id, UserName: new("anna")})).User
	want.judge(tf.t, homeBlock{
		Directory: text(u.HomeDirectory), Type: string(u.HomeDirectoryType), Policy: text(u.Policy), Role: text(u.Role),
		Mappings: u.HomeDirectoryMappings, Posix: u.PosixProfile,
	})
	if got := tagMap(u.Tags); !maps.Equal(got, tags) || text(u.Arn) != arnOf("user/"+id+"/anna") || text(u.UserName) != "anna" {
		tf.t.Errorf("user %+v, want tags %v", u, tags)
	}
}

// TestTerraformAccess walks an aws_transfer_access through a life. It has no tags, and its role is not read back.
func TestTerraformAccess(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	server := bareServer()
	server.IdentityProvider, server.Provider = "AWS_DIRECTORY_SERVICE", types.IdentityProviderDetails{DirectoryId: new("d-0123456789")}
	id := tf.createServer(server)
	const group = "S-1-1-12-1234567890-123456789-1234567890-1234"
	clean := func(want homeBlock) {
		t.Helper()
		a := must[*transfer.DescribeAccessOutput](t)(tf.sdk.DescribeAccess(t.Context(), &transfer.DescribeAccessInput{ServerId: &id, ExternalId: new(group)})).Access
		want.judge(t, homeBlock{
			Directory: text(a.HomeDirectory), Type: string(a.HomeDirectoryType), Policy: text(a.Policy), Role: text(a.Role),
			Mappings: a.HomeDirectoryMappings, Posix: a.PosixProfile,
		})
		if text(a.ExternalId) != group {
			t.Errorf("access %s", text(a.ExternalId))
		}
	}
	last := homes()[0]
	must[*transfer.CreateAccessOutput](t)(tf.sdk.CreateAccess(t.Context(), &transfer.CreateAccessInput{
		ServerId: &id, ExternalId: new(group), Role: &last.Role, HomeDirectoryType: types.HomeDirectoryType(last.Type),
	}))
	clean(last)
	for i, next := range homes()[1:] {
		in := &transfer.UpdateAccessInput{
			ServerId: &id, ExternalId: new(group), HomeDirectory: changed(last.Directory, next.Directory),
			Policy: changed(last.Policy, next.Policy), Role: changed(last.Role, next.Role),
		}
		if next.Type != last.Type {
			in.HomeDirectoryType = types.HomeDirectoryType(next.Type)
		}
		if !reflect.DeepEqual(next.Mappings, last.Mappings) {
			in.HomeDirectoryMappings = next.Mappings
		}
		must[*transfer.UpdateAccessOutput](t)(tf.sdk.UpdateAccess(t.Context(), in))
		clean(next)
		if t.Failed() {
			t.Fatalf("update %d of an access", i+1)
		}
		last = next
	}
	for range 2 { // the second time somebody else was quicker
		if _, err := tf.sdk.DeleteAccess(t.Context(), &transfer.DeleteAccessInput{ServerId: &id, ExternalId: new(group)}); err != nil && !isMissing(err) {
			t.Error(err)
		}
		if _, err := tf.sdk.DescribeAccess(t.Context(), &transfer.DescribeAccessInput{ServerId: &id, ExternalId: new(group)}); !isMissing(err) {
			t.Errorf("a deleted access: %v", err)
		}
	}
	tf.destroyServer(id, true)
}

// TestTerraformSSHKey: aws_transfer_ssh_key has no update; it is read out of its user. The provider compares bodies
// without their comments and the white space around them.
func TestTerraformSSHKey(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	id := tf.createServer(bareServer())
	user := &transfer.DescribeUserInput{ServerId: &id, UserName: new("anna")}
	must[*transfer.CreateUserOutput](t)(tf.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{ServerId: &id, UserName: new("anna"), Role: new(role)}))
	vars := variables(t)
	plain := func(body string) string { return strings.Join(strings.Fields(body)[:2], " ") }
	find := func(key string) string {
		t.Helper()
		for _, k := range must[*transfer.DescribeUserOutput](t)(tf.sdk.DescribeUser(t.Context(), user)).User.SshPublicKeys {
			if *k.SshPublicKeyId == key {
				return *k.SshPublicKeyBody
			}
		}
		return ""
	}
	for _, name := range []string{"ssh_ed25519", "ssh_ecdsa", "ssh_rsa"} {
		body := vars[name] + "\n"
		key := *must[*transfer.ImportSshPublicKeyOutput](t)(tf.sdk.ImportSshPublicKey(t.Context(), &transfer.ImportSshPublicKeyInput{
			ServerId: &id, UserName: new("anna"), SshPublicKeyBody: &body,
		})).SshPublicKeyId
		if got := find(key); got == "" || plain(got) != plain(body) {
			t.Errorf("the plan is not empty: read %q, want %q", got, body)
		}
		for range 2 { // the second time somebody else was quicker
			_, err := tf.sdk.DeleteSshPublicKey(t.Context(), &transfer.DeleteSshPublicKeyInput{ServerId: &id, UserName: new("anna"), SshPublicKeyId: &key})
			if err != nil && !isMissing(err) {
				t.Error(err)
			}
		}
		if find(key) != "" {
			t.Error("a deleted key is there")
		}
	}
	tf.destroyUser(id, "anna")
	if _, err := tf.sdk.DescribeUser(t.Context(), user); !isMissing(err) { // a refresh of a key whose user has gone
		t.Error(err)
	}
	tf.destroyServer(id, false)
}

// TestTerraformWorkflow: aws_transfer_workflow changes in nothing but tags. It sends no empty members but
// OverwriteExisting, and must read back what it sent and no default.
func TestTerraformWorkflow(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	steps := []types.WorkflowStep{
		{Type: "COPY", CopyStepDetails: &types.CopyStepDetails{
			Name: new("copy"), OverwriteExisting: "FALSE", SourceFileLocation: new("${original.file}"),
			DestinationFileLocation: &types.InputFileLocation{S3FileLocation: &types.S3InputFileLocation{Bucket: new("bucket"), Key: new("kept/")}},
		}},
		{Type: "TAG", TagStepDetails: &types.TagStepDetails{Tags: []types.S3Tag{{Key: new("a"), Value: new("b")}}}},
		{Type: "DELETE", DeleteStepDetails: &types.DeleteStepDetails{Name: new("last"), SourceFileLocation: new("${previous.file}")}},
	}
	id := *must[*transfer.CreateWorkflowOutput](t)(tf.sdk.CreateWorkflow(t.Context(), &transfer.CreateWorkflowInput{
		Description: new("a description"), Steps: steps, OnExceptionSteps: steps[2:], Tags: tagList(map[string]string{"a": "1", "b": "2"}),
	})).WorkflowId
	clean := func(tags map[string]string) {
		t.Helper()
		w := must[*transfer.DescribeWorkflowOutput](t)(tf.sdk.DescribeWorkflow(t.Context(), &transfer.DescribeWorkflowInput{WorkflowId: &id})).Workflow
		if !reflect.DeepEqual(w.Steps, steps) || !reflect.DeepEqual(w.OnExceptionSteps, steps[2:]) || text(w.Description) != "a description" {
			t.Errorf("the plan is not empty: %+v", w)
		}
		if text(w.Arn) != arnOf("workflow/"+id) || !maps.Equal(tagMap(w.Tags), tags) {
			t.Errorf("%s has tags %v, want %v", text(w.Arn), tagMap(w.Tags), tags)
		}
	}
	clean(map[string]string{"a": "1", "b": "2"})
	tf.retag("workflow/"+id, map[string]string{"a": "1", "b": "2"}, map[string]string{"b": "3"})
	clean(map[string]string{"b": "3"})
	for range 2 { // the second time somebody else was quicker
		if _, err := tf.sdk.DeleteWorkflow(t.Context(), &transfer.DeleteWorkflowInput{WorkflowId: &id}); err != nil && !isMissing(err) {
			t.Error(err)
		}
		if _, err := tf.sdk.DescribeWorkflow(t.Context(), &transfer.DescribeWorkflowInput{WorkflowId: &id}); !isMissing(err) {
			t.Errorf("a deleted workflow: %v", err)
		}
	}
}

// TestTerraformTag: aws_transfer_tag is for tags that aws_transfer_server does not see, above all the two of a custom
// host name. It finds its tag in ListTagsForResource.
func TestTerraformTag(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	block := bareServer()
	block.Tags = map[string]string{"a": "1"}
	id := tf.createServer(block)
	arn := arnOf("server/" + id)
	value := func(key string) string {
		t.Helper()
		out := must[*transfer.ListTagsForResourceOutput](t)(tf.sdk.ListTagsForResource(t.Context(), &transfer.ListTagsForResourceInput{Arn: &arn}))
		for _, tag := range out.Tags {
			if *tag.Key == key {
				return *tag.Value
			}
		}
		return ""
	}
	for _, key := range []string{"plain", "aws:transfer:customHostname", "aws:transfer:route53HostedZoneId"} {
		for _, want := range []string{"files.example.com", "/hostedzone/Z1"} { // create, update
			must[*transfer.TagResourceOutput](t)(tf.sdk.TagResource(t.Context(), &transfer.TagResourceInput{Arn: &arn, Tags: tagList(map[string]string{key: want})}))
			if got := value(key); got != want {
				t.Errorf("the plan is not empty: %s is %q, want %q", key, got, want)
			}
		}
		if key != "plain" {
			tf.planIsClean(id, block) // the server's own plan does not show it
		}
		must[*transfer.UntagResourceOutput](t)(tf.sdk.UntagResource(t.Context(), &transfer.UntagResourceInput{Arn: &arn, TagKeys: []string{key}}))
		if got := value(key); got != "" {
			t.Errorf("%s is still %q", key, got)
		}
	}
	tf.planIsClean(id, block)
	tf.destroyServer(id, false)
}

// TestTerraformHostKey: aws_transfer_host_key changes in its description and its tags.
func TestTerraformHostKey(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	id := tf.createServer(bareServer())
	vars := variables(t)
	key := *must[*transfer.ImportHostKeyOutput](t)(tf.sdk.ImportHostKey(t.Context(), &transfer.ImportHostKeyInput{
		ServerId: &id, HostKeyBody: new(vars["pem_rsa"]), Description: new("first"), Tags: tagList(map[string]string{"a": "1"}),
	})).HostKeyId
	clean := func(description string, tags map[string]string) {
		t.Helper()
		k := must[*transfer.DescribeHostKeyOutput](t)(tf.sdk.DescribeHostKey(t.Context(), &transfer.DescribeHostKeyInput{ServerId: &id, HostKeyId: &key})).HostKey
		if text(k.Description) != description || !maps.Equal(tagMap(k.Tags), tags) || text(k.HostKeyFingerprint) != vars["fingerprint_rsa"] {
			t.Errorf("the plan is not empty: %+v", k)
		}
	}
	clean("first", map[string]string{"a": "1"})
	must[*transfer.UpdateHostKeyOutput](t)(tf.sdk.UpdateHostKey(t.Context(), &transfer.UpdateHostKeyInput{ServerId: &id, HostKeyId: &key, Description: new("second")}))
	clean("second", map[string]string{"a": "1"})
	tf.retag("host-key/"+id+"/"+key, map[string]string{"a": "1"}, map[string]string{"b": "2"})
	clean("second", map[string]string{"b": "2"})
	for range 2 { // the second time somebody else was quicker
		if _, err := tf.sdk.DeleteHostKey(t.Context(), &transfer.DeleteHostKeyInput{ServerId: &id, HostKeyId: &key}); err != nil && !isMissing(err) {
			t.Error(err)
		}
		if _, err := tf.sdk.DescribeHostKey(t.Context(), &transfer.DescribeHostKeyInput{ServerId: &id, HostKeyId: &key}); !isMissing(err) {
			t.Errorf("a deleted host key: %v", err)
		}
	}
}

package api_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
)

// dssKey is a good key of a type that nobody takes any more.
const dssKey = "ssh-dss AAAAB3NzaC1kc3MAAACBAPl2pCSoZ+3/pmhL+zIaTSRFsXipV7PytvjvDkwdOchFrczLD1+zV/eEFs1F2/bwiuy/nFdY2MA6bHxAM8J4R5/JCyGOLRBZCxk8wwcfXk2BmBrw70MN4mEiby7A1KmQb41BOxzcPU/B9lI5zVxruOP1Sj/EJ0Y+tMNGhqj34wX1AAAAFQDcHgw3zE/adzykIZwdcvqirTy7EwAAAIEAocrEEXH5otTM/1zHtEn5ipyO20UxHo536m14ROC+Z2o9Od0Vgpt0JfIyBDRIbFuGaMNQRCxj/+SuyE7eN7YA8mg3HfBfxcx6P0MOO5sd3u5J+HV/VIkzeyAmlIiB1p0cW4R/q52TGH0YH1ZPzjJX18naJt2/lM2WFUlW6ORWAtYAAACADv47VV40gsmGeJxALsUx5WqYw2uM+XxUfvhbTL+GlZ6HdN5PB/HbjcziGsLX09aCwjBTqYikg5OIEAXBbZnSbh390mb47S06uUAyNt5Ai0He8eBn6GL4MZInYPKCmdBfCY4XD/esYw725ApACLiBGf0b2rhqP1Ratk/kqPFCsWI="

func (w *world) newUser(t testing.TB, id, name string) {
	t.Helper()
	ok[*transfer.CreateUserOutput](t)(w.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{ServerId: &id, UserName: &name, Role: aws.String(role)}))
}

func (w *world) user(t testing.TB, id, name string) types.DescribedUser {
	t.Helper()
	return *ok[*transfer.DescribeUserOutput](t)(w.sdk.DescribeUser(t.Context(), &transfer.DescribeUserInput{ServerId: &id, UserName: &name})).User
}

// authorized writes a public key as a line of authorized_keys.
func authorized(t testing.TB, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func ed25519Key(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authorized(t, public)
}

func TestUserLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	out := ok[*transfer.CreateUserOutput](t)(w.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{
		ServerId: &id, UserName: aws.String("anna"), Role: aws.String(role), HomeDirectory: aws.String("/bucket/anna"),
		SshPublicKeyBody: aws.String("  " + goodKey + " anna@example\n"), Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("a")}},
	}))
	if *out.ServerId != id || *out.UserName != "anna" {
		t.Errorf("got %s", pretty(out))
	}
	u := w.user(t, id, "anna")
	if *u.Arn != "arn:aws:transfer:eu-central-1:123456789012:user/"+id+"/anna" || *u.HomeDirectory != "/bucket/anna" ||
		u.HomeDirectoryType != types.HomeDirectoryTypePath || *u.Role != role || len(u.Tags) != 1 || len(u.SshPublicKeys) != 1 {
		t.Errorf("got %s", pretty(u))
	}
	key := u.SshPublicKeys[0]
	if *key.SshPublicKeyBody != goodKey+" anna@example" || time.Since(*key.DateImported).Abs() > time.Minute {
		t.Errorf("key %s", pretty(key))
	}
	if got := w.describe(t, id).UserCount; *got != 1 {
		t.Errorf("user count %d", *got)
	}
	w.call(t, "CreateUser", `{"ServerId":"`+id+`","UserName":"anna","Role":"`+role+`"}`).refused(t, 400, "ResourceExistsException", "User anna already exists")

	other := "arn:aws:iam::123456789012:role/other"
	ok[*transfer.UpdateUserOutput](t)(w.sdk.UpdateUser(t.Context(), &transfer.UpdateUserInput{ServerId: &id, UserName: aws.String("anna"), Role: &other}))
	if v := w.user(t, id, "anna"); *v.Role != other || *v.HomeDirectory != "/bucket/anna" || len(v.SshPublicKeys) != 1 || len(v.Tags) != 1 {
		t.Errorf("after the role: %s", pretty(v))
	}
	list := ok[*transfer.ListUsersOutput](t)(w.sdk.ListUsers(t.Context(), &transfer.ListUsersInput{ServerId: &id}))
	if len(list.Users) != 1 || *list.Users[0].SshPublicKeyCount != 1 || *list.Users[0].HomeDirectory != "/bucket/anna" || *list.ServerId != id {
		t.Errorf("list %s", pretty(list))
	}
	if _, err := w.sdk.DeleteUser(t.Context(), &transfer.DeleteUserInput{ServerId: &id, UserName: aws.String("anna")}); err != nil {
		t.Fatal(err)
	}
	for _, operation := range []string{"DescribeUser", "UpdateUser", "DeleteUser"} {
		w.call(t, operation, `{"ServerId":"`+id+`","UserName":"anna"}`).refused(t, 400, "ResourceNotFoundException", "Unknown user anna")
	}
}

func TestUserWithoutKeysHasAnEmptyList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	w.newUser(t, id, "anna")
	if a := w.call(t, "DescribeUser", `{"ServerId":"`+id+`","UserName":"anna"}`); !strings.Contains(a.Body, `"SshPublicKeys":[]`) {
		t.Errorf("got %s", a.Body)
	}
}

func TestSshPublicKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *api.Config) { c.Limits.KeysPerUser = 50 })
	id := w.newServer(t)
	w.newUser(t, id, "anna")
	add := func(body string) (string, error) {
		out, err := w.sdk.ImportSshPublicKey(t.Context(), &transfer.ImportSshPublicKeyInput{ServerId: &id, UserName: aws.String("anna"), SshPublicKeyBody: &body})
		if err != nil {
			return "", err
		}
		return *out.SshPublicKeyId, nil
	}
	var ids []string
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k := ok[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(curve, rand.Reader))
		ids = append(ids, ok[string](t)(add(authorized(t, k.Public()))))
	}
	good := ok[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ids = append(ids, ok[string](t)(add(authorized(t, good.Public()))), ok[string](t)(add(goodKey)))
	if got := len(w.user(t, id, "anna").SshPublicKeys); got != 5 {
		t.Errorf("%d keys, want 5", got)
	}
	_, err := add(goodKey + " another comment")
	refusal(t, err, "ResourceExistsException", ids[4])

	small := ok[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	_, err = add(authorized(t, small.Public()))
	refusal(t, err, "InvalidRequestException", "2048", "1024")
	for _, bad := range []string{
		dssKey,
		"ssh-rsa " + strings.Fields(goodKey)[1], // one type outside, another inside
		goodKey[:len(goodKey)-8],                // cut
		"ssh-ed25519 AAAA",                      // nothing inside
		"ssh-ed25519-cert-v01 " + strings.Fields(goodKey)[1],   // no such type
		strings.Replace(goodKey, "ssh-ed25519", "ssh-none", 1), // no such type
	} {
		_, err := add(bad)
		refusal(t, err, "InvalidRequestException", "Unsupported or invalid SSH public key format")
	}
	_, err = add("no-pty " + goodKey)
	refusal(t, err, "ValidationException", "sshPublicKeyBody")
	_, err = add(goodKey + "\n" + ed25519Key(t))
	refusal(t, err, "ValidationException", "sshPublicKeyBody")

	del := func(key string) error {
		_, err := w.sdk.DeleteSshPublicKey(t.Context(), &transfer.DeleteSshPublicKeyInput{ServerId: &id, UserName: aws.String("anna"), SshPublicKeyId: &key})
		return err
	}
	if err := del(ids[4]); err != nil {
		t.Fatal(err)
	}
	refusal(t, del(ids[4]), "ResourceNotFoundException", "SSH public key", ids[4])
	for range 46 {
		ok[string](t)(add(ed25519Key(t)))
	}
	_, err = add(ed25519Key(t))
	refusal(t, err, "InvalidRequestException", "You have reached the service quota of 50 SSH public keys of this user")
	w.call(t, "ImportSshPublicKey", fmt.Sprintf(`{"ServerId":%q,"UserName":"nobody","SshPublicKeyBody":%q}`, id, goodKey)).refused(t, 400, "ResourceNotFoundException")
}

func TestHomes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *api.Config) { c.Limits.MappingsPerUser = 2000 })
	id := w.newServer(t)
	for i, c := range []struct{ members, word string }{
		{`"HomeDirectory":""`, ""},
		{`"HomeDirectory":"/"`, ""},
		{`"HomeDirectory":"/bucket/a/","HomeDirectoryType":"PATH"`, ""},
		{`"HomeDirectory":"/bucket/../other"`, "HomeDirectory"},
		{`"HomeDirectory":"/bucket/\u0000"`, "HomeDirectory"},
		{`"HomeDirectoryMappings":[{"Entry":"/","Target":"/b"}]`, "LOGICAL"},
		{`"HomeDirectoryType":"LOGICAL"`, "HomeDirectoryMappings must be set"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/","Target":"/b/${transfer:UserName}"}]`, ""},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectory":"/","HomeDirectoryMappings":[{"Entry":"/in","Target":"/b/in"},{"Entry":"/inner","Target":"/c","Type":"DIRECTORY"}]`, ""},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectory":"/in","HomeDirectoryMappings":[{"Entry":"/in","Target":"/b/in"}]`, ""},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectory":"/out","HomeDirectoryMappings":[{"Entry":"/in","Target":"/b/in"}]`, "an Entry of HomeDirectoryMappings"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/in","Target":"/b"},{"Entry":"/in","Target":"/c"}]`, "twice"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a/b/c","Target":"/b"},{"Entry":"/a","Target":"/c"}]`, "/a/b/c overlaps with /a"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/","Target":"/b"},{"Entry":"/a","Target":"/c"}]`, "/a overlaps with /"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a","Target":"/b/"}]`, "Target /b/"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a","Target":"/"}]`, "Target /"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a","Target":"/b/../c"}]`, "Target /b/../c"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a/","Target":"/b"}]`, "Entry /a/"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/f","Target":"/b/f","Type":"FILE"}]`, ""},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/f","Target":"/b","Type":"FILE"}]`, "FILE"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/","Target":"/b/f","Type":"FILE"}]`, "FILE"},
		{`"Policy":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"s3:GetObject\",\"Resource\":\"arn:aws:s3:::${Transfer:HomeBucket}/*\"}]}"`, ""},
		{`"Policy":""`, ""},
		{`"Policy":"{\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"s3:*\",\"Resource\":\"*\"},{\"Principal\":\"*\"}]}"`, "Statement[1].Principal"},
		{`"Policy":"arn:aws:iam::123456789012:policy/x"`, "Policy is no session policy"},
		{`"Policy":"[]"`, "Policy is no session policy"},
		{`"Policy":"null"`, "Policy is no session policy"},
		{`"Policy":"{} {}"`, "Policy is no session policy"},
		{`"PosixProfile":{"Uid":0,"Gid":4294967295,"SecondaryGids":[7]}`, ""},
		{`"Tags":[{"Key":"a","Value":""},{"Key":"a","Value":""}]`, "twice"},
	} {
		a := w.call(t, "CreateUser", fmt.Sprintf(`{"ServerId":%q,"UserName":"user%d","Role":%q,%s}`, id, i, role, c.members))
		if c.word != "" {
			a.refused(t, 400, "InvalidRequestException", c.word)
		} else if a.Status != 200 {
			t.Errorf("%s: %+v", c.members, a)
		}
	}
	var many []types.HomeDirectoryMapEntry
	for i := range 2001 {
		many = append(many, types.HomeDirectoryMapEntry{Entry: aws.String(fmt.Sprintf("/%d", i)), Target: aws.String("/b")})
	}
	in := &transfer.CreateUserInput{ServerId: &id, UserName: aws.String("many"), Role: aws.String(role), HomeDirectoryType: types.HomeDirectoryTypeLogical, HomeDirectoryMappings: many}
	_, err := w.sdk.CreateUser(t.Context(), in)
	refusal(t, err, "InvalidRequestException", "You have reached the service quota of 2000 entries")
	in.HomeDirectoryMappings = many[:2000]
	ok[*transfer.CreateUserOutput](t)(w.sdk.CreateUser(t.Context(), in))
}

// Changing the type of a home takes what belonged to the other type away; changing anything else does not.
func TestChangingTheTypeOfAHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	name := aws.String("anna")
	ok[*transfer.CreateUserOutput](t)(w.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{ServerId: &id, UserName: name, Role: aws.String(role), HomeDirectory: aws.String("/bucket/anna")}))
	_, err := w.sdk.UpdateUser(t.Context(), &transfer.UpdateUserInput{ServerId: &id, UserName: name, HomeDirectoryType: types.HomeDirectoryTypeLogical})
	refusal(t, err, "InvalidRequestException", "HomeDirectoryMappings must be set")
	mappings := []types.HomeDirectoryMapEntry{{Entry: aws.String("/"), Target: aws.String("/bucket/anna"), Type: types.MapTypeDirectory}}
	update := func(in transfer.UpdateUserInput) types.DescribedUser {
		in.ServerId, in.UserName = &id, name
		ok[*transfer.UpdateUserOutput](t)(w.sdk.UpdateUser(t.Context(), &in))
		return w.user(t, id, *name)
	}
	u := update(transfer.UpdateUserInput{HomeDirectoryType: types.HomeDirectoryTypeLogical, HomeDirectoryMappings: mappings})
	if u.HomeDirectory != nil || !reflect.DeepEqual(u.HomeDirectoryMappings, mappings) {
		t.Errorf("LOGICAL: %s", pretty(u))
	}
	u = update(transfer.UpdateUserInput{HomeDirectoryType: types.HomeDirectoryTypeLogical, Role: aws.String(role)})
	if !reflect.DeepEqual(u.HomeDirectoryMappings, mappings) {
		t.Errorf("the same type again: %s", pretty(u))
	}
	u = update(transfer.UpdateUserInput{HomeDirectoryType: types.HomeDirectoryTypePath, HomeDirectory: aws.String("/bucket")})
	if *u.HomeDirectory != "/bucket" || u.HomeDirectoryMappings != nil {
		t.Errorf("PATH: %s", pretty(u))
	}
}

// Without limits there are none.
func TestNoLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	var many []types.HomeDirectoryMapEntry
	for i := range 3_000 {
		many = append(many, types.HomeDirectoryMapEntry{Entry: aws.String(fmt.Sprintf("/%d", i)), Target: aws.String("/b")})
	}
	ok[*transfer.CreateUserOutput](t)(w.sdk.CreateUser(t.Context(), &transfer.CreateUserInput{
		ServerId: &id, UserName: aws.String("anna"), Role: aws.String(role), HomeDirectoryType: types.HomeDirectoryTypeLogical, HomeDirectoryMappings: many,
	}))
	w.newUser(t, id, "bert")
	for range 60 {
		ok[*transfer.ImportSshPublicKeyOutput](t)(w.sdk.ImportSshPublicKey(t.Context(), &transfer.ImportSshPublicKeyInput{ServerId: &id, UserName: aws.String("bert"), SshPublicKeyBody: aws.String(ed25519Key(t))}))
	}
	if n := len(w.user(t, id, "anna").HomeDirectoryMappings); n != 3_000 {
		t.Errorf("%d mappings", n)
	}
	// Raw: the model speaks of 5 keys, and AWS's own quota of 50.
	a := w.call(t, "DescribeUser", `{"ServerId":"`+id+`","UserName":"bert"}`)
	if n := len(decode[struct{ User server.User }]([]byte(a.Body)).User.SshPublicKeys); n != 60 {
		t.Errorf("%d keys", n)
	}
}

// Limits that the catalogue keeps are told in words.
func TestQuotasAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for kind, words := range map[string]string{
		"Server": "50 servers", "User": "50 users on this server", "Workflow": "50 workflows", "Access": "50 accesses on this server",
	} {
		w.fail(fmt.Errorf("create: %w", &server.QuotaError{ResourceType: kind, Limit: 50}))
		w.call(t, "CreateServer", `{}`).refused(t, 400, "InvalidRequestException", "You have reached the service quota of "+words)
	}
}

// What a user needs depends on the domain of its server, and on who its users are.
func TestUsersAndTheirServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	call := func(operation, id, members string) answer {
		return w.call(t, operation, fmt.Sprintf(`{"ServerId":%q,"UserName":"anna"%s}`, id, members))
	}
	const theRole = `,"Role":"` + role + `"`
	efs := w.server(t, `"Domain":"EFS"`)
	call("CreateUser", efs, theRole).refused(t, 400, "InvalidRequestException", "PosixProfile must be set")
	call("CreateUser", efs, theRole+`,"PosixProfile":{"Uid":1}`).refused(t, 400, "ValidationException", "'posixProfile.gid'")
	call("CreateUser", efs, theRole+`,"PosixProfile":{"Uid":1,"Gid":2},"Policy":"{\"Statement\":[]}"`).refused(t, 400, "InvalidRequestException", "Amazon EFS does not use session policies")
	if a := call("CreateUser", efs, theRole+`,"PosixProfile":{"Uid":1,"Gid":2,"SecondaryGids":[3]},"HomeDirectory":"/fs-01234567/x"`); a.Status != 200 {
		t.Errorf("EFS: %s", a.Body)
	}
	call("UpdateUser", efs, `,"Policy":"{\"Statement\":[]}"`).refused(t, 400, "InvalidRequestException", "Policy")
	if a := call("UpdateUser", efs, `,"HomeDirectory":"/fs-01234567/y"`); a.Status != 200 {
		t.Errorf("EFS: %s", a.Body)
	}
	if u := w.user(t, efs, "anna"); *u.PosixProfile.Uid != 1 || *u.PosixProfile.Gid != 2 || u.PosixProfile.SecondaryGids[0] != 3 || *u.HomeDirectory != "/fs-01234567/y" {
		t.Errorf("EFS: %s", pretty(u))
	}

	call("CreateUser", w.server(t, gateway), theRole).refused(t, 400, "InvalidRequestException", "SERVICE_MANAGED", "API_GATEWAY")
	// Users stay while a server asks somebody else, and are there again when it does not.
	w.state(t, efs, server.Online)
	for _, members := range []string{lambda, `"IdentityProviderType":"SERVICE_MANAGED"`} {
		if a := w.call(t, "UpdateServer", `{"ServerId":"`+efs+`",`+members+`}`); a.Status != 200 {
			t.Errorf("%s: %s", members, a.Body)
		}
		if s := w.describe(t, efs); *s.UserCount != 1 {
			t.Errorf("%s: %s", members, pretty(s))
		}
	}
	if s := w.describe(t, efs); s.IdentityProviderDetails != nil {
		t.Errorf("details of a provider that is no more: %s", pretty(s))
	}
}

package api_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
)

// group is the security identifier of a group of a directory.
const group = "S-1-5-21-1234567890-123456789-1234567890-1134"

// access is called with the lock held.
func (c *catalogue) access(id server.ID, externalID string) ([]byte, error) {
	if c.servers[id] == nil {
		return nil, missing("Server", string(id))
	}
	if c.accesses[id][externalID] == nil {
		return nil, missing("Access", externalID)
	}
	return c.accesses[id][externalID], nil
}

func (c *catalogue) CreateAccess(_ context.Context, id server.ID, a server.Access) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.servers[id] == nil:
		return missing("Server", string(id))
	case c.accesses[id][a.ExternalId] != nil:
		return &server.ExistsError{ResourceType: "Access", Resource: a.ExternalId}
	}
	c.accesses[id][a.ExternalId] = encode(a)
	return nil
}

func (c *catalogue) Access(_ context.Context, id server.ID, externalID string) (server.Access, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	doc, err := c.access(id, externalID)
	if err != nil {
		return server.Access{}, err
	}
	return decode[server.Access](doc), nil
}

func (c *catalogue) Accesses(_ context.Context, id server.ID, p server.Page) ([]server.Access, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers[id] == nil {
		return nil, missing("Server", string(id))
	}
	return pageOf[string, server.Access](c.accesses[id], p), c.err
}

func (c *catalogue) UpdateAccess(_ context.Context, id server.ID, externalID string, change func(*server.Access) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	doc, err := c.access(id, externalID)
	if err != nil {
		return err
	}
	if doc, err = rewrite(doc, change); err == nil {
		c.accesses[id][externalID] = doc
	}
	return err
}

func (c *catalogue) DeleteAccess(_ context.Context, id server.ID, externalID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.access(id, externalID)
	if err == nil {
		delete(c.accesses[id], externalID)
	}
	return err
}

// provide changes what a server's users come from, behind the back of the control plane.
func (w *world) provide(t testing.TB, id, provider string, adjust ...func(*server.Server)) {
	t.Helper()
	err := w.UpdateServer(t.Context(), server.ID(id), func(s *server.Server) error {
		s.IdentityProviderType = provider
		for _, f := range adjust {
			f(s)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// newDirectory makes a server whose users come from a directory.
func (w *world) newDirectory(t testing.TB) string {
	t.Helper()
	id := w.newServer(t)
	w.provide(t, id, "AWS_DIRECTORY_SERVICE", func(s *server.Server) {
		s.IdentityProviderDetails = &server.IdentityProviderDetails{DirectoryId: "d-0123456789"}
	})
	return id
}

func (w *world) accessOf(t testing.TB, id, externalID string) types.DescribedAccess {
	t.Helper()
	out := ok[*transfer.DescribeAccessOutput](t)(w.sdk.DescribeAccess(t.Context(), &transfer.DescribeAccessInput{ServerId: &id, ExternalId: &externalID}))
	if *out.ServerId != id {
		t.Errorf("access of %s, want %s", *out.ServerId, id)
	}
	return *out.Access
}

func TestAccessLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newDirectory(t)
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::${transfer:HomeBucket}"}]}`
	create := &transfer.CreateAccessInput{
		ServerId: &id, ExternalId: aws.String(group), Role: aws.String(role), Policy: &policy, HomeDirectoryType: types.HomeDirectoryTypeLogical,
		HomeDirectoryMappings: []types.HomeDirectoryMapEntry{{Entry: aws.String("/in"), Target: aws.String("/bucket/${Transfer:UserName}"), Type: types.MapTypeDirectory}},
		HomeDirectory:         aws.String("/in"),
		PosixProfile:          &types.PosixProfile{Uid: aws.Int64(4294967295), Gid: aws.Int64(0), SecondaryGids: []int64{1, 2}},
	}
	out := ok[*transfer.CreateAccessOutput](t)(w.sdk.CreateAccess(t.Context(), create))
	if *out.ServerId != id || *out.ExternalId != group {
		t.Errorf("created %s", pretty(out))
	}
	_, err := w.sdk.CreateAccess(t.Context(), create)
	refusal(t, err, "ResourceExistsException", group)
	want := types.DescribedAccess{
		ExternalId: create.ExternalId, Role: create.Role, Policy: create.Policy, HomeDirectory: create.HomeDirectory,
		HomeDirectoryType: create.HomeDirectoryType, HomeDirectoryMappings: create.HomeDirectoryMappings, PosixProfile: create.PosixProfile,
	}
	if got := w.accessOf(t, id, group); !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}

	update := func(in transfer.UpdateAccessInput) {
		t.Helper()
		in.ServerId, in.ExternalId = &id, aws.String(group)
		if out := ok[*transfer.UpdateAccessOutput](t)(w.sdk.UpdateAccess(t.Context(), &in)); *out.ServerId != id || *out.ExternalId != group {
			t.Errorf("updated %s", pretty(out))
		}
	}
	update(transfer.UpdateAccessInput{})
	if got := w.accessOf(t, id, group); !reflect.DeepEqual(got, want) {
		t.Errorf("an update of nothing made %s", pretty(got))
	}
	update(transfer.UpdateAccessInput{HomeDirectoryType: types.HomeDirectoryTypePath, HomeDirectory: aws.String("/bucket/all"), Role: aws.String(role + "2"), Policy: aws.String("")})
	want.HomeDirectoryType, want.HomeDirectory, want.HomeDirectoryMappings = types.HomeDirectoryTypePath, aws.String("/bucket/all"), nil
	want.Role, want.Policy = aws.String(role+"2"), nil
	if got := w.accessOf(t, id, group); !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}

	list := ok[*transfer.ListAccessesOutput](t)(w.sdk.ListAccesses(t.Context(), &transfer.ListAccessesInput{ServerId: &id}))
	listed := types.ListedAccess{ExternalId: want.ExternalId, HomeDirectory: want.HomeDirectory, HomeDirectoryType: want.HomeDirectoryType, Role: want.Role}
	if *list.ServerId != id || !reflect.DeepEqual(list.Accesses, []types.ListedAccess{listed}) {
		t.Errorf("list %s", pretty(list))
	}
	remove := func() error {
		_, err := w.sdk.DeleteAccess(t.Context(), &transfer.DeleteAccessInput{ServerId: &id, ExternalId: aws.String(group)})
		return err
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	refusal(t, remove(), "ResourceNotFoundException", group)
}

func TestAccessDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newDirectory(t)
	ok[*transfer.CreateAccessOutput](t)(w.sdk.CreateAccess(t.Context(), &transfer.CreateAccessInput{ServerId: &id, ExternalId: aws.String(group), Role: aws.String(role)}))
	want := types.DescribedAccess{ExternalId: aws.String(group), Role: aws.String(role), HomeDirectoryType: types.HomeDirectoryTypePath}
	if got := w.accessOf(t, id, group); !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}
}

// Accesses are made only where groups are, and stay when a server's users come from elsewhere for a while.
func TestAccessNeedsADirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	body := `{"ServerId":"` + id + `","ExternalId":"` + group + `","Role":"` + role + `"}`
	for _, provider := range []string{"SERVICE_MANAGED", "API_GATEWAY", "AWS_LAMBDA"} {
		w.provide(t, id, provider)
		w.call(t, "CreateAccess", body).refused(t, 400, "InvalidRequestException", "AWS_DIRECTORY_SERVICE", id, provider)
	}
	w.provide(t, id, "AWS_DIRECTORY_SERVICE")
	if a := w.call(t, "CreateAccess", body); a.Status != 200 {
		t.Fatalf("got %s", a.Body)
	}
	w.provide(t, id, "SERVICE_MANAGED")
	for _, operation := range []string{"DescribeAccess", "UpdateAccess", "DeleteAccess"} {
		if a := w.call(t, operation, body); a.Status != 200 {
			t.Errorf("%s while users are managed: %s", operation, a.Body)
		}
	}
}

func TestAccessRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newDirectory(t)
	for _, c := range []struct{ members, exception, word string }{
		{`"HomeDirectory":"bucket"`, "ValidationException", "'homeDirectory'"},
		{`"HomeDirectory":"/bucket/../other"`, "InvalidRequestException", "HomeDirectory"},
		{`"HomeDirectoryType":"LOGICAL"`, "InvalidRequestException", "HomeDirectoryMappings must be set"},
		{`"HomeDirectoryMappings":[{"Entry":"/","Target":"/b"}]`, "InvalidRequestException", "LOGICAL"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[]`, "ValidationException", "'homeDirectoryMappings'"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/","Target":"/b/"}]`, "InvalidRequestException", "Target"},
		{`"HomeDirectoryType":"LOGICAL","HomeDirectoryMappings":[{"Entry":"/a","Target":"/b"},{"Entry":"/a/c","Target":"/b"}]`, "InvalidRequestException", "overlap"},
		{`"HomeDirectoryType":"VIRTUAL"`, "ValidationException", "[PATH, LOGICAL]"},
		{`"PosixProfile":{"Uid":1}`, "ValidationException", "'posixProfile.gid'"},
		{`"PosixProfile":{"Uid":-1,"Gid":4294967296}`, "ValidationException", "2 validation errors"},
		{`"Role":"admin"`, "ValidationException", "'role'"},
		{`"Policy":"arn:aws:iam::aws:policy/ReadOnly"`, "InvalidRequestException", "Policy"},
		{`"ExternalId":"admins"`, "ValidationException", "'externalId'"},
	} {
		base := `{"ServerId":"` + id + `","ExternalId":"` + group + `","Role":"` + role + `",`
		w.call(t, "CreateAccess", base+c.members+`}`).refused(t, 400, c.exception, c.word)
	}
	efs := w.newDirectory(t)
	w.provide(t, efs, "AWS_DIRECTORY_SERVICE", func(s *server.Server) { s.Domain = "EFS" })
	base := `{"ServerId":"` + efs + `","ExternalId":"` + group + `","Role":"` + role + `"`
	w.call(t, "CreateAccess", base+`}`).refused(t, 400, "InvalidRequestException", "PosixProfile")
	if a := w.call(t, "CreateAccess", base+`,"PosixProfile":{"Uid":1,"Gid":2}}`); a.Status != 200 {
		t.Errorf("on EFS: %s", a.Body)
	}
	w.call(t, "UpdateAccess", base+`,"Policy":"{\"Statement\":[]}"}`).refused(t, 400, "InvalidRequestException", "Policy")
	if n := len(ok[*transfer.ListAccessesOutput](t)(w.sdk.ListAccesses(t.Context(), &transfer.ListAccessesInput{ServerId: &id})).Accesses); n != 0 {
		t.Errorf("%d accesses were made", n)
	}
}

func TestAccessesOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newDirectory(t)
	const nowhere = "s-0123456789abcdef0"
	for operation, more := range map[string]string{
		"CreateAccess": `,"ExternalId":"` + group + `","Role":"` + role + `"`, "ListAccesses": ``,
		"DescribeAccess": `,"ExternalId":"` + group + `"`, "UpdateAccess": `,"ExternalId":"` + group + `"`, "DeleteAccess": `,"ExternalId":"` + group + `"`,
	} {
		w.call(t, operation, `{"ServerId":"`+nowhere+`"`+more+`}`).refused(t, 400, "ResourceNotFoundException", nowhere)
		if operation != "CreateAccess" && operation != "ListAccesses" {
			w.call(t, operation, `{"ServerId":"`+id+`"`+more+`}`).refused(t, 400, "ResourceNotFoundException", group)
		}
	}
}

func TestListAccessesPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newDirectory(t)
	var want []string
	for i := range 5 {
		x := server.Access{ExternalId: fmt.Sprintf("S-1-5-%d", i), Role: role, HomeDirectoryType: "PATH"}
		if err := w.CreateAccess(t.Context(), server.ID(id), x); err != nil {
			t.Fatal(err)
		}
		want = append(want, x.ExternalId)
	}
	var got []string
	pages := transfer.NewListAccessesPaginator(w.sdk, &transfer.ListAccessesInput{ServerId: &id, MaxResults: aws.Int32(2)})
	for pages.HasMorePages() {
		for _, x := range ok[*transfer.ListAccessesOutput](t)(pages.NextPage(t.Context())).Accesses {
			got = append(got, *x.ExternalId)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.call(t, "ListAccesses", `{"ServerId":"`+id+`","NextToken":"forged"}`).refused(t, 400, "InvalidNextTokenException")
}

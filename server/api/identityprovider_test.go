package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/identity"
)

// provider stands for the identity providers.
type provider func(server.Server, identity.Attempt) (api.ProviderAnswer, error)

func (p provider) TestProvider(_ context.Context, s server.Server, a identity.Attempt) (api.ProviderAnswer, error) {
	return p(s, a)
}

func (p provider) wire(c *api.Config) { c.TestProvider = p }

func TestIdentityProvider(t *testing.T) {
	t.Parallel()
	const grant = `{"Role":"` + role + `","HomeDirectory":"/bucket"}`
	w := newWorld(t, provider(func(s server.Server, a identity.Attempt) (api.ProviderAnswer, error) {
		if s.IdentityProviderDetails.Url != "https://idp.example/prod" || s.ServerId != a.Server || a.PublicKey != nil {
			t.Errorf("asked %+v of %+v", a, s)
		}
		url := fmt.Sprintf("%s/servers/%s/users/%s/config?protocol=%s&sourceIp=%s", s.IdentityProviderDetails.Url, a.Server, a.UserName, a.Protocol, a.SourceIP)
		if a.Password != "hunter2" {
			return api.ProviderAnswer{Response: "{}", StatusCode: 200, Url: url}, nil
		}
		return api.ProviderAnswer{Response: grant, StatusCode: 200, Message: "fine", Url: url}, nil
	}).wire)
	id := w.newServer(t)
	w.provide(t, id, "API_GATEWAY", func(s *server.Server) {
		s.IdentityProviderDetails = &server.IdentityProviderDetails{Url: "https://idp.example/prod"}
	})
	base := "https://idp.example/prod/servers/" + id + "/users/anna/config?protocol="
	got := ok[*transfer.TestIdentityProviderOutput](t)(w.sdk.TestIdentityProvider(t.Context(), &transfer.TestIdentityProviderInput{
		ServerId: &id, UserName: aws.String("anna"), UserPassword: aws.String("hunter2"), ServerProtocol: types.ProtocolFtps, SourceIp: aws.String("2001:db8::1"),
	}))
	if *got.Response != grant || got.StatusCode != 200 || *got.Message != "fine" || *got.Url != base+"FTPS&sourceIp=2001:db8::1" {
		t.Errorf("got %s", pretty(got))
	}
	for _, password := range []*string{nil, aws.String(""), aws.String("wrong guess")} {
		got := ok[*transfer.TestIdentityProviderOutput](t)(w.sdk.TestIdentityProvider(t.Context(), &transfer.TestIdentityProviderInput{
			ServerId: &id, UserName: aws.String("anna"), UserPassword: password,
		}))
		if *got.Response != "{}" || got.StatusCode != 200 || *got.Message != "" || *got.Url != base+"SFTP&sourceIp=" {
			t.Errorf("got %s", pretty(got))
		}
	}
	if log := w.log.String(); strings.Contains(log, "hunter2") || strings.Contains(log, "wrong guess") {
		t.Error("the log shows a password")
	}
}

func TestIdentityProviderRefusals(t *testing.T) {
	t.Parallel()
	bare := newWorld(t)
	wired := newWorld(t, provider(func(s server.Server, _ identity.Attempt) (api.ProviderAnswer, error) {
		if s.IdentityProviderType == "API_GATEWAY" {
			return api.ProviderAnswer{}, errors.New("dial 10.1.2.3: refused")
		}
		return api.ProviderAnswer{}, fmt.Errorf("no such thing: %w", errors.ErrUnsupported)
	}).wire)
	for _, w := range []*world{bare, wired} {
		id := w.newServer(t)
		test := func(more string) answer {
			t.Helper()
			return w.call(t, "TestIdentityProvider", `{"ServerId":"`+id+`","UserName":"anna","UserPassword":"pw"`+more+`}`)
		}
		if a := test(``); a.Message != id+" not configured for external auth" {
			t.Errorf("message %q", a.Message)
		}
		test(``).refused(t, 400, "InvalidRequestException")
		w.provide(t, id, "AWS_LAMBDA")
		test(``).refused(t, 400, "InvalidRequestException", "TestIdentityProvider with IdentityProviderType AWS_LAMBDA is not supported yet")
		test(`,"ServerProtocol":"AS2"`).refused(t, 400, "InvalidRequestException", "AS2")
		test(`,"SourceIp":"1.2.3"`).refused(t, 400, "InvalidRequestException", "SourceIp")
		test(`,"SourceIp":"localhost"`).refused(t, 400, "ValidationException", "'sourceIp'")
		test(`,"ServerProtocol":"SCP"`).refused(t, 400, "ValidationException", "[SFTP, FTP, FTPS, AS2]")
		w.call(t, "TestIdentityProvider", `{"ServerId":"s-0123456789abcdef0","UserName":"anna"}`).
			refused(t, 400, "ResourceNotFoundException", "Unknown server s-0123456789abcdef0")
		w.provide(t, id, "API_GATEWAY")
		if w == wired {
			test(``).refused(t, 500, "InternalServiceError")
			if a := test(``); strings.Contains(a.Body, "10.1.2.3") {
				t.Errorf("the answer shows the cause: %s", a.Body)
			}
		}
	}
}

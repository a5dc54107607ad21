package identity_test

import (
	"testing"

	"github.com/transferd/transferd/server/identity"
)

func TestLoggedHome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		grant identity.Grant
		want  string
	}{
		{identity.Grant{HomeDirectory: "/bucket/ann"}, "/bucket/ann"},
		{identity.Grant{HomeDirectory: "/bucket/ann", HomeDirectoryType: "PATH"}, "/bucket/ann"},
		{identity.Grant{HomeDirectoryType: "LOGICAL"}, "/"},
	} {
		if got := c.grant.LoggedHome(); got != c.want {
			t.Errorf("%+v is logged as %q, want %q", c.grant, got, c.want)
		}
	}
}

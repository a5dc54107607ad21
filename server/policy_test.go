package server_test

import (
	"slices"
	"testing"

	"github.com/transferd/transferd/server"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	names := server.PolicyNames()
	if len(names) < 15 || !slices.IsSorted(names) || !slices.Contains(names, server.DefaultSecurityPolicy) {
		t.Fatalf("names = %q", names)
	}
	for _, name := range names {
		p, ok := server.LookupPolicy(name)
		if !ok || p.SecurityPolicyName != name || len(p.SshCiphers) == 0 || len(p.SshKexs) == 0 ||
			len(p.SshMacs) == 0 || len(p.TlsCiphers) == 0 {
			t.Errorf("%s: %+v, %v", name, p, ok)
		}
	}
	if p, ok := server.LookupPolicy("TransferSecurityPolicy-1999-01"); ok {
		t.Errorf("unknown policy found: %+v", p)
	}
}

func TestDefaultPolicy(t *testing.T) {
	t.Parallel()
	p, ok := server.LookupPolicy("")
	if !ok || p.SecurityPolicyName != server.DefaultSecurityPolicy || p.SshRsaSha1 || p.Fips {
		t.Fatalf("default = %+v, %v", p, ok)
	}
	p.SshCiphers[0] = "none"
	if again, _ := server.LookupPolicy(""); again.SshCiphers[0] != "aes128-gcm@openssh.com" {
		t.Error("a caller's change reached the list")
	}
	if old, _ := server.LookupPolicy("TransferSecurityPolicy-2018-11"); !old.SshRsaSha1 {
		t.Error("2018-11 allows ssh-rsa over SHA-1")
	}
}

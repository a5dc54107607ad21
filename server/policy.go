package server

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// DefaultSecurityPolicy is what a server gets that names none (API: SecurityPolicyName of CreateServer).
const DefaultSecurityPolicy = "TransferSecurityPolicy-2024-01"

// policyFile is the documented list of policies, as AWS's page of security policies for servers shows it.
//
//go:embed security_policies.json
var policyFile []byte

// SecurityPolicy is a security policy as DescribeSecurityPolicy shows it (shape DescribedSecurityPolicy). The lists are
// AWS's own; what a listener offers is their intersection with what its library implements.
type SecurityPolicy struct {
	SecurityPolicyName string
	Fips               bool
	SshCiphers         []string `json:",omitempty"`
	SshKexs            []string `json:",omitempty"`
	SshMacs            []string `json:",omitempty"`
	TlsCiphers         []string `json:",omitempty"`
	Type               string   `json:",omitempty"` // SERVER

	// SshRsaSha1 allows ssh-rsa signatures over SHA-1, for host keys and for users' keys. The API shows no such member;
	// the page of security policies does.
	SshRsaSha1 bool `json:"-"`
}

// LookupPolicy finds a policy by name; "" is the default. The lists are the caller's own.
func LookupPolicy(name string) (SecurityPolicy, bool) {
	if name == "" {
		name = DefaultSecurityPolicy
	}
	p, ok := policies()[name]
	p.SshCiphers = slices.Clone(p.SshCiphers)
	p.SshKexs = slices.Clone(p.SshKexs)
	p.SshMacs = slices.Clone(p.SshMacs)
	p.TlsCiphers = slices.Clone(p.TlsCiphers)
	return p, ok
}

// PolicyNames are the names of all policies, sorted.
func PolicyNames() []string {
	known := policies()
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// policies reads the embedded list, once: it is a constant in another form, so a list that cannot be read is a build
// that cannot run.
var policies = sync.OnceValue(func() map[string]SecurityPolicy {
	var file map[string]struct {
		SecurityPolicy
		Sha1 bool `json:"sshRsaSha1HostKeyAllowed"`
	}
	if err := json.Unmarshal(policyFile, &file); err != nil {
		panic(fmt.Sprintf("server: embedded security policies: %v", err))
	}
	known := make(map[string]SecurityPolicy, len(file))
	for name, entry := range file {
		p := entry.SecurityPolicy
		p.SecurityPolicyName, p.Type, p.SshRsaSha1 = name, "SERVER", entry.Sha1
		known[name] = p
	}
	return known
})

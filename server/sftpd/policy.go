package sftpd

import (
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
)

// algorithms are what a connection offers.
type algorithms struct {
	ciphers, kexs, macs []string
	userKeys            []string // signature algorithms of users' keys
	sha1                bool     // ssh-rsa over SHA-1, for host keys too
}

// CheckPolicy says whether a policy leaves at least one algorithm of each class that this build implements.
func CheckPolicy(p server.SecurityPolicy) error {
	_, err := offer(p)
	return err
}

// offer intersects a policy with what x/crypto/ssh implements, in the policy's order. It must be done here: the library
// drops unknown names silently and with none left every handshake would fail.
func offer(p server.SecurityPolicy) (algorithms, error) {
	good, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	a := algorithms{
		ciphers:  intersect(p.SshCiphers, good.Ciphers, weak.Ciphers),
		kexs:     intersect(p.SshKexs, good.KeyExchanges, weak.KeyExchanges),
		macs:     intersect(p.SshMacs, good.MACs, weak.MACs),
		userKeys: userKeyAlgorithms(p.SshRsaSha1),
		sha1:     p.SshRsaSha1,
	}
	for _, class := range []struct {
		name string
		left []string
	}{{"ciphers", a.ciphers}, {"key exchanges", a.kexs}, {"MACs", a.macs}} {
		if len(class.left) == 0 {
			return algorithms{}, fmt.Errorf("security policy %s: none of its SSH %s is supported", p.SecurityPolicyName, class.name)
		}
	}
	return a, nil
}

func intersect(want []string, have ...[]string) []string {
	var both []string
	for _, name := range want {
		if slices.ContainsFunc(have, func(names []string) bool { return slices.Contains(names, name) }) {
			both = append(both, name)
		}
	}
	return both
}

// userKeyAlgorithms are those of the key types that ImportSshPublicKey takes.
func userKeyAlgorithms(sha1 bool) []string {
	names := []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
	if sha1 {
		names = append(names, ssh.KeyAlgoRSA)
	}
	return names
}

package doctor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// renewIn is when an operator should know that a certificate ends.
const renewIn = 14 * 24 * time.Hour

// files is where a certificate is mended.
const files = "certificates in the configuration, at the ARN that is the server's Certificate; the files are read again when they change"

// certificate judges what the server showed: when it is valid, for whom, who signed it, and its key.
func (e *examination) certificate(state tls.ConnectionState) {
	leaf := state.PeerCertificates[0] // a server always shows one
	e.validity(leaf)
	e.names(leaf)
	e.chain(leaf, state.PeerCertificates[1:])
	e.key(leaf)
}

func (e *examination) validity(leaf *x509.Certificate) {
	const check = "certificate: validity"
	now, day := e.Now(), func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
	switch {
	case now.After(leaf.NotAfter):
		e.add(check, Wrong, "ended on "+day(leaf.NotAfter), "renew it: "+files)
	case now.Before(leaf.NotBefore):
		e.add(check, Wrong, "begins only on "+day(leaf.NotBefore), "see the clocks, or "+files)
	case now.Add(renewIn).After(leaf.NotAfter):
		e.add(check, Warning, "ends soon, on "+day(leaf.NotAfter), "renew it: "+files)
	default:
		e.add(check, OK, "until "+day(leaf.NotAfter), "")
	}
}

func (e *examination) names(leaf *x509.Certificate) {
	const check = "certificate: names"
	if leaf.VerifyHostname(e.host) == nil {
		e.add(check, OK, "is for "+e.host, "")
		return
	}
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	has := "has no names"
	if len(names) > 0 {
		has = "is for " + clean(strings.Join(names, ", "))
	}
	e.add(check, Wrong, has+", and not for "+e.host, "have clients use one of its names, or get one for "+e.host+": "+files)
}

func (e *examination) chain(leaf *x509.Certificate, others []*x509.Certificate) {
	const check = "certificate: chain"
	between := x509.NewCertPool()
	for _, c := range others {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: e.Roots, Intermediates: between, CurrentTime: e.inside(leaf)})
	var unknown x509.UnknownAuthorityError
	own := bytes.Equal(leaf.RawIssuer, leaf.RawSubject)
	switch {
	case err == nil:
		e.add(check, OK, "leads to an authority that is trusted here", "")
	case errors.As(err, &unknown) && own:
		e.add(check, Wrong, "signed by itself: clients have no reason to trust it, and ask or refuse",
			"get one from an authority ("+files+"), or give clients this one to trust and the doctor -ca-file")
	case errors.As(err, &unknown) && len(others) == 0:
		e.add(check, Wrong, "the server shows no intermediate certificate, and "+clean(issuer(leaf))+" is not trusted here",
			"put the chain behind the certificate into its file: "+files)
	case errors.As(err, &unknown):
		e.add(check, Wrong, "the chain ends at an authority that is not trusted here", "clients need "+clean(issuer(leaf))+"; the doctor takes it with -ca-file")
	default:
		e.add(check, Wrong, clean(err.Error()), files)
	}
}

// inside is a moment at which the certificate is valid: whether it is now was judged already.
func (e *examination) inside(leaf *x509.Certificate) time.Time {
	now := e.Now()
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	}
	return now
}

func issuer(leaf *x509.Certificate) string { return leaf.Issuer.String() }

// key judges the key's size (AWS user guide, "Create an FTPS-enabled server": RSA of 2048 or 4096 bits, or an elliptic
// curve of 256, 384 or 521).
func (e *examination) key(leaf *x509.Certificate) {
	const check = "certificate: key"
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		says := fmt.Sprintf("RSA, %d bits", k.N.BitLen())
		if k.N.BitLen() < 2048 {
			e.add(check, Wrong, says+": too short", "make one of 2048 bits or on P-256: "+files)
			return
		}
		e.add(check, OK, says, "")
	case *ecdsa.PublicKey:
		e.add(check, OK, "EC, "+k.Curve.Params().Name, "")
	default:
		e.add(check, Warning, leaf.PublicKeyAlgorithm.String()+": some clients do not know it", "RSA and EC are known to all: "+files)
	}
}

package steps

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// keyring are the keys of a secret. It is read anew for each step: the library keeps notes in its keys, so two steps
// cannot share them, and a changed secret counts at once.
type keyring struct {
	private openpgp.EntityList // without passphrases any more
	signers openpgp.EntityList // whoever may have signed; none if signatures do not matter
}

// The numbers behind the names of a secret's members. AWS allows three pairs:
// https://docs.aws.amazon.com/transfer/latest/userguide/manage-pgp-keys.html.
const numbers = "123"

// CheckSecret says what is wrong with a secret for DECRYPT steps: AWS's JSON, PGPPrivateKey and PGPPassphrase, which may
// be missing, and the same with 2 and 3 behind the names. Beyond AWS, PGPPublicKey, PGPPublicKey2 and PGPPublicKey3 are
// keys of which one must have signed a file.
func CheckSecret(secret []byte) error {
	_, err := parseSecret(secret)
	return err
}

// parseSecret reads a secret. Its errors repeat nothing of it but names.
func parseSecret(secret []byte) (keyring, error) {
	var k keyring
	var members map[string]any
	if json.Unmarshal(secret, &members) != nil {
		return k, errors.New("it is no JSON object")
	}
	for _, number := range numbers {
		suffix := strings.TrimPrefix(string(number), "1")
		private, err := readKeys(members, "PGPPrivateKey"+suffix)
		if err != nil {
			return k, err
		}
		for _, entity := range private {
			if entity.PrivateKey == nil {
				return k, fmt.Errorf("PGPPrivateKey%s is a public key", suffix)
			}
			passphrase, _ := members["PGPPassphrase"+suffix].(string) // no string is no passphrase
			if entity.DecryptPrivateKeys([]byte(passphrase)) != nil {
				return k, fmt.Errorf("PGPPassphrase%s does not open PGPPrivateKey%s", suffix, suffix)
			}
		}
		public, err := readKeys(members, "PGPPublicKey"+suffix)
		if err != nil {
			return k, err
		}
		k.private, k.signers = append(k.private, private...), append(k.signers, public...)
	}
	if len(k.private) == 0 {
		return k, errors.New("it has no PGPPrivateKey")
	}
	return k, nil
}

// readKeys reads a member that holds keys, none if it is missing or empty.
func readKeys(members map[string]any, name string) (openpgp.EntityList, error) {
	text, ok := members[name].(string)
	if members[name] != nil && !ok {
		return nil, fmt.Errorf("%s is no string", name)
	}
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s is no armored key", name)
	}
	return keys, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/workflow/steps"
)

// secretFiles are secrets of AWS Secrets Manager that files stand for, by their names. A file is read each time, so a
// changed one counts at once.
type secretFiles map[string]string

// Secret implements steps.Secrets. A file that is missing is an error of the configuration and not a missing secret: the
// server's default must not open what a user's own key should.
func (s secretFiles) Secret(_ context.Context, name string) ([]byte, error) {
	file, ok := s[name]
	if !ok {
		return nil, fmt.Errorf("secret %q is not in the configuration: %w", name, fs.ErrNotExist)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %s", name, err) // not %w, see above
	}
	return b, nil
}

// secretFolder is a folder of secrets, each in the file NAME.json.
type secretFolder string

// Secret implements steps.Secrets. No name leads out of the folder.
func (s secretFolder) Secret(_ context.Context, name string) (b []byte, err error) {
	root, err := os.OpenRoot(string(s))
	if err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return root.ReadFile(name + ".json")
}

// secretName is the name of a secret that a DECRYPT step looks for: a user's, or the server's for all others.
var secretName = regexp.MustCompile(`^aws/transfer/s-[0-9a-f]{17}/(@pgp-default|\w[\w@.-]{2,99})$`)

// judgeSecrets says which secrets no DECRYPT step could use.
func (f *configFile) judgeSecrets(at yamlstrict.Lines) error {
	var errs []error
	for name, file := range f.Secrets {
		key := "secrets." + name
		if !secretName.MatchString(name) {
			errs = append(errs, at.At(key, "must be aws/transfer/SERVER-ID/USERNAME or aws/transfer/SERVER-ID/@pgp-default"))
			continue
		}
		b, err := os.ReadFile(file)
		if err == nil {
			err = steps.CheckSecret(b)
		}
		if err != nil {
			errs = append(errs, at.At(key, err.Error()))
		}
	}
	return errors.Join(errs...)
}

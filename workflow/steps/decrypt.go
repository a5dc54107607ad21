package steps

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Secrets finds secrets by their names in AWS Secrets Manager.
type Secrets interface {
	// Secret is the secret's value as it is now. The error wraps fs.ErrNotExist if there is none.
	Secret(ctx context.Context, name string) ([]byte, error)
}

// Decrypt decrypts an OpenPGP file. The plaintext is written as it comes, in bounded memory, and shows only when the
// message has ended as it should: nobody sees a byte of a file that was tampered with.
type Decrypt struct {
	Stores  storage.Stores
	Secrets Secrets
	Now     func() time.Time
	// MaxPlaintext is what a plaintext may have; 0 is AWS's 10 GB
	// (https://docs.aws.amazon.com/general/latest/gr/transfer-service.html). One of 100 times the size of its file at most
	// is always taken; beyond that it is a bomb.
	MaxPlaintext int64
}

const (
	maxPlaintext = 10_000_000_000
	maxRatio     = 100
)

// Run decrypts the file. The plaintext becomes ${previous.file}.
func (s *Decrypt) Run(ctx context.Context, in *workflow.Input) error {
	details := in.Spec.DecryptStepDetails
	if details == nil {
		return bad("The step has no DecryptStepDetails.")
	}
	from, to, err := places(ctx, s.Stores, in, details.DestinationFileLocation)
	if err != nil {
		return err
	}
	doing := "decrypt " + from.Path()
	if to.Location == from.Location {
		return bad("Cannot " + doing + " onto itself.")
	}
	keys, err := s.keys(ctx, in.User, doing)
	if err != nil {
		return err
	}
	object, err := s.decrypt(ctx, in, from, to, keys)
	if err != nil {
		return explain(err, doing+" to "+to.Path())
	}
	in.Output = to.output(object)
	return nil
}

// keys reads the user's secret, or the server's: "If you don't create a PGP key for a specific user, Transfer Family uses
// @pgp-default" (https://docs.aws.amazon.com/transfer/latest/userguide/manage-pgp-keys.html).
func (s *Decrypt) keys(ctx context.Context, user workflow.UserDetails, doing string) (keyring, error) {
	server := "aws/transfer/" + user.ServerId + "/"
	name := server + user.UserName
	secret, err := s.Secrets.Secret(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		name = server + "@pgp-default"
		secret, err = s.Secrets.Secret(ctx, name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return keyring{}, bad("Cannot " + doing + ": there is no secret " + server + user.UserName + " and none " + name + ".")
	}
	if err != nil {
		return keyring{}, &workflow.StepError{Type: workflow.InternalServerError, Err: err,
			Message: "Cannot " + doing + ": the secret " + name + " cannot be read."}
	}
	keys, err := parseSecret(secret)
	if err != nil {
		return keyring{}, bad("Cannot " + doing + ": the secret " + name + " is not right: " + err.Error() + ".")
	}
	return keys, nil
}

func (s *Decrypt) decrypt(ctx context.Context, in *workflow.Input, from, to file, keys keyring) (storage.Object, error) {
	overwrite := in.Spec.DecryptStepDetails.OverwriteExisting == overwriting
	source, err := from.open(ctx)
	if err != nil {
		return storage.Object{}, err
	}
	object, err := s.write(ctx, in, source, to, keys, overwrite)
	if errors.Is(err, fs.ErrExist) && in.Attempt > 1 {
		// Is it what an attempt before a crash had made? Then it is what comes out now.
		source.rewind()
		var plain io.Reader
		if plain, err = s.open(source, keys); err == nil {
			object, err = sameAs(ctx, plain, to)
		}
	}
	return object, errors.Join(err, source.Close())
}

func (s *Decrypt) write(ctx context.Context, in *workflow.Input, source *contents, to file, keys keyring, overwrite bool) (storage.Object, error) {
	plain, err := s.open(source, keys)
	if err != nil {
		return storage.Object{}, err
	}
	return write(ctx, in, plain, to, overwrite)
}

// open reads a file up to its plaintext.
func (s *Decrypt) open(source *contents, keys keyring) (io.Reader, error) {
	r, err := dearmored(source)
	var m *message
	if err == nil {
		m, err = openMessage(r, keys, s.Now())
	}
	if err != nil {
		return nil, source.instead(err)
	}
	return &plaintext{message: m, source: source, left: max(cmp.Or(s.MaxPlaintext, maxPlaintext), maxRatio*source.size)}, nil
}

// dearmored reads a file without its ASCII armor, if it has one. The first packet of a binary one begins with a bit that
// no text has (RFC 9580, 4.2). GnuPG passes over text before the armor; so does this, over a little.
func dearmored(source io.Reader) (io.Reader, error) {
	const preamble = 4 << 10
	r := bufio.NewReaderSize(source, chunk)
	first, err := r.Peek(preamble)
	if len(first) == 0 {
		return nil, errors.Join(errNotPGP, err)
	}
	if first[0]&0x80 != 0 {
		return r, nil
	}
	if !bytes.Contains(first, []byte("-----BEGIN "+openpgp.MessageType+"-----")) {
		return nil, errNotPGP
	}
	block, err := armor.Decode(r)
	if err != nil || block.Type != openpgp.MessageType {
		return nil, errors.Join(errNotPGP, err)
	}
	return block.Body, nil
}

// plaintext is what a message holds, up to a size. An error of the store beneath comes out as that.
type plaintext struct {
	*message
	source *contents
	left   int64
}

func (p *plaintext) Read(b []byte) (int, error) {
	n, err := p.message.Read(b)
	if p.left -= int64(n); p.left < 0 {
		return n, errTooLarge
	}
	if err != nil && err != io.EOF {
		err = p.source.instead(err)
	}
	return n, err
}

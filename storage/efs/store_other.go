//go:build !linux

package efs

import (
	"context"
	"errors"
	"fmt"

	"github.com/transferd/transferd/storage"
)

// Store does not exist here: identities and confinement are the Linux kernel's.
type Store struct{ abilities }

type abilities interface {
	storage.Backend
	storage.Resumer
	storage.Discarder
	storage.Copier
	storage.Modifier
	storage.Replacer
	storage.Attrer
	storage.Linker
	storage.Statfser
}

// New is errors.ErrUnsupported here.
func New(Config) (*Store, error) {
	return nil, fmt.Errorf("efs: file systems can be served on Linux alone: %w", errors.ErrUnsupported)
}

// As gives the store for an identity.
func (*Store) As(context.Context, storage.Posix) (*Store, error) { return nil, errors.ErrUnsupported }

// Close frees the store.
func (*Store) Close() error { return nil }

// CanImpersonate says why the daemon cannot act for others.
func CanImpersonate() error { return errors.ErrUnsupported }

// HonourQuotas takes from the process what lets it ignore quotas.
func HonourQuotas() error { return nil }

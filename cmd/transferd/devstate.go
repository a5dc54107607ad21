package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
)

// What a dev installation calls itself. The account is the one that AWS's own examples and emulators use.
const (
	devRegion  = "us-east-1"
	devAccount = "000000000000"
	devBucket  = "dev-bucket"
	devUser    = "demo"
	devRole    = "arn:aws:iam::" + devAccount + ":role/transferd-dev"
)

// devState is what `transferd dev` keeps in DATA/dev.json, beside the database.
type devState struct {
	AccessKey string
	SecretKey string
	ServerID  server.ID // "" until the server is made
	// FTPServerID is the second server; FTPPassword is its user's, "" while there is no users file of ours.
	FTPServerID server.ID `json:",omitempty"`
	FTPPassword string    `json:",omitempty"`
}

func loadDevState(data string) (*devState, error) {
	var s devState
	b, err := os.ReadFile(filepath.Join(data, "dev.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.AccessKey = "DEV" + strings.ToUpper(rand.Text()[:17])
		s.SecretKey = base64.RawURLEncoding.EncodeToString(randomBytes(30))
		return &s, s.save(data)
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(data, "dev.json"), err)
	}
	return &s, nil
}

// save replaces the file whole, so that a crash leaves the old one or the new one.
func (s *devState) save(data string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(data, "dev.json"), append(b, '\n'), 0o600)
}

func replaceFile(name string, content []byte, mode fs.FileMode) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, content, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// userKey reads the dev user's key, or makes it: DATA/dev_key and DATA/dev_key.pub, in OpenSSH's form.
func userKey(data string) (path string, public string, err error) {
	path = filepath.Join(data, "dev_key")
	if b, err := os.ReadFile(path); err == nil {
		signer, err := ssh.ParsePrivateKey(b)
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", path, err)
		}
		return path, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "transferd dev")
	if err != nil {
		return "", "", err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return "", "", err
	}
	public = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if err := replaceFile(path+".pub", []byte(public+" transferd-dev\n"), 0o644); err != nil {
		return "", "", err
	}
	return path, public, replaceFile(path, pem.EncodeToMemory(block), 0o600)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

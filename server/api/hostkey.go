package api

import (
	"context"
	"fmt"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

type importHostKeyRequest struct {
	ServerId    server.ID
	HostKeyBody string
	Description string
	Tags        []server.Tag
}

type hostKeyRequest struct {
	ServerId  server.ID
	HostKeyId string
}

type hostKeyAnswer struct {
	ServerId  server.ID
	HostKeyId string
}

// importHostKey gives a server one more host key. It shows it to clients once it is the oldest of its type; until then
// it announces it, so that they learn it before they need it (user guide, "Rotate the server host keys").
func (a *API) importHostKey(ctx context.Context, in importHostKeyRequest) (*hostKeyAnswer, error) {
	tags, err := addTags(nil, in.Tags)
	if err != nil {
		return nil, err
	}
	// The parser's errors never repeat the key.
	key, err := a.parseHostKey(in.HostKeyBody)
	if err != nil {
		return nil, invalid("HostKeyBody: %s", err)
	}
	key.Description, key.Tags = in.Description, toHostKeyTags(tags)
	if err := a.keys.AddHostKey(ctx, in.ServerId, key); err != nil {
		return nil, err
	}
	return &hostKeyAnswer{in.ServerId, key.HostKeyId}, nil
}

// describedHostKey is shape DescribedHostKey.
type describedHostKey struct {
	Arn                string
	HostKeyId          string
	HostKeyFingerprint string
	Description        string `json:",omitempty"`
	Type               string
	DateImported       server.Time
	Tags               []server.Tag `json:",omitempty"`
}

func (a *API) describeHostKey(ctx context.Context, in hostKeyRequest) (any, error) {
	k, err := a.hostKey(ctx, in.ServerId, in.HostKeyId)
	if err != nil {
		return nil, err
	}
	return struct{ HostKey describedHostKey }{describedHostKey{
		Arn: a.realm.HostKeyARN(in.ServerId, k.HostKeyId), HostKeyId: k.HostKeyId, HostKeyFingerprint: k.Fingerprint,
		Description: k.Description, Type: k.Type, DateImported: server.Time{Time: k.DateImported}, Tags: fromHostKeyTags(k.Tags),
	}}, nil
}

// hostKey finds one key of a server.
func (a *API) hostKey(ctx context.Context, id server.ID, key string) (hostkeys.Key, error) {
	all, err := a.keys.HostKeys(ctx, id)
	if err != nil {
		return hostkeys.Key{}, err
	}
	for _, k := range all {
		if k.HostKeyId == key {
			return k, nil
		}
	}
	return hostkeys.Key{}, &server.NotFoundError{ResourceType: "HostKey", Resource: key}
}

type updateHostKeyRequest struct {
	hostKeyRequest
	Description string
}

// updateHostKey describes a key anew; an empty description takes the old one away.
func (a *API) updateHostKey(ctx context.Context, in updateHostKeyRequest) (*hostKeyAnswer, error) {
	err := a.keys.UpdateHostKey(ctx, in.ServerId, in.HostKeyId, func(k *hostkeys.Key) error {
		k.Description = in.Description
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &hostKeyAnswer{in.ServerId, in.HostKeyId}, nil
}

func (a *API) deleteHostKey(ctx context.Context, in hostKeyRequest) error {
	return a.keys.DeleteHostKey(ctx, in.ServerId, in.HostKeyId)
}

type listHostKeysRequest struct {
	ServerId server.ID
	pageRequest
}

// listedHostKey is shape ListedHostKey, which calls the fingerprint by another name than DescribedHostKey does.
type listedHostKey struct {
	Arn          string
	HostKeyId    string
	Fingerprint  string
	Description  string `json:",omitempty"`
	Type         string
	DateImported server.Time
}

type listHostKeysAnswer struct {
	NextToken string `json:",omitempty"`
	ServerId  server.ID
	HostKeys  []listedHostKey
}

// listHostKeys lists keys oldest first: the first of a type is the active one.
func (a *API) listHostKeys(ctx context.Context, in listHostKeysRequest) (*listHostKeysAnswer, error) {
	fetch := func(p server.Page) ([]hostkeys.Key, error) {
		all, err := a.keys.HostKeys(ctx, in.ServerId)
		return part(all, p, hostKeyAge), err
	}
	all, next, err := page(a, list{"ListHostKeys", string(in.ServerId)}, in.pageRequest, fetch, hostKeyAge)
	if err != nil {
		return nil, err
	}
	out := &listHostKeysAnswer{NextToken: next, ServerId: in.ServerId, HostKeys: make([]listedHostKey, 0, len(all))}
	for _, k := range all {
		out.HostKeys = append(out.HostKeys, listedHostKey{
			Arn: a.realm.HostKeyARN(in.ServerId, k.HostKeyId), HostKeyId: k.HostKeyId, Fingerprint: k.Fingerprint,
			Description: k.Description, Type: k.Type, DateImported: server.Time{Time: k.DateImported},
		})
	}
	return out, nil
}

// hostKeyAge sorts keys as the service ranks them, oldest first, and those of the same moment by id.
func hostKeyAge(k hostkeys.Key) string {
	return fmt.Sprintf("%016x/%s", max(0, k.DateImported.UnixMilli()), k.HostKeyId)
}

// The hostkeys room has a tag of its own, because it knows no servers.

func fromHostKeyTags(in []hostkeys.Tag) []server.Tag {
	out := make([]server.Tag, 0, len(in))
	for _, t := range in {
		out = append(out, server.Tag(t))
	}
	return out
}

func toHostKeyTags(in []server.Tag) []hostkeys.Tag {
	out := make([]hostkeys.Tag, 0, len(in))
	for _, t := range in {
		out = append(out, hostkeys.Tag(t))
	}
	return out
}

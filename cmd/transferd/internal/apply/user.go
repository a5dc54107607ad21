package apply

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

func (p *Plan) planUser(ctx context.Context, u *userSpec) error {
	name := placeName(u.props.ServerId) + "/" + *u.props.UserName
	resolve(u.props, p.known)
	have, err := p.user(ctx, u.props)
	if err != nil {
		return err
	}
	if have == nil {
		p.add(&Change{Action: Create, Kind: "user", Name: name, Details: userMembers(u.props), run: func(ctx context.Context, _ *Change) error {
			return p.createUser(ctx, u.props)
		}})
		return nil
	}
	differences := differ(u.props, have, "Tags", "SshPublicKeys", "ServerId", "UserName")
	add, drop, keyDetails := keyDiff(u.props.SshPublicKeys, have.SshPublicKeys)
	set, untag, tagDetails := tagDiff(u.props.Tags, have.Tags)
	c := &Change{Action: None, Kind: "user", Name: name, Details: slices.Concat(texts(differences), keyDetails, tagDetails)}
	if len(c.Details) > 0 {
		c.Action = Update
		c.run = func(ctx context.Context, _ *Change) error {
			if err := p.updateUser(ctx, u.props, differences); err != nil {
				return err
			}
			return errors.Join(p.changeKeys(ctx, u.props, add, drop), p.changeTags(ctx, have.Arn, set, untag))
		}
	}
	p.add(c)
	return nil
}

// placeName names a server in a plan: by its name in the file, else by its id.
func placeName(server *string) string {
	if r, ok := parseReference(*server); ok {
		return r.name
	}
	return *server
}

func userMembers(u *userProps) []string {
	details := members(u, "ServerId", "UserName", "SshPublicKeys")
	for _, key := range u.SshPublicKeys {
		details = append(details, "+ key "+keyName(key))
	}
	return details
}

// user asks for a user; nil if there is none, or not even a server yet.
func (p *Plan) user(ctx context.Context, u *userProps) (*types.DescribedUser, error) {
	if _, unknown := parseReference(*u.ServerId); unknown {
		return nil, nil
	}
	out, err := p.client.DescribeUser(ctx, &transfer.DescribeUserInput{ServerId: u.ServerId, UserName: u.UserName})
	var gone *types.ResourceNotFoundException
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return out.User, nil
}

func (p *Plan) createUser(ctx context.Context, u *userProps) error {
	resolve(u, p.known)
	in := &transfer.CreateUserInput{}
	copyMembers(in, u)
	if _, err := p.client.CreateUser(ctx, in); err != nil {
		return err
	}
	return p.changeKeys(ctx, u, u.SshPublicKeys, nil)
}

func (p *Plan) updateUser(ctx context.Context, u *userProps, differences []difference) error {
	if len(differences) == 0 {
		return nil
	}
	in := &transfer.UpdateUserInput{}
	for _, d := range differences {
		copyMembers(in, u, d.top())
	}
	// Type and mappings belong together: the API judges them as one.
	copyMembers(in, u, "ServerId", "UserName", "HomeDirectoryType", "HomeDirectoryMappings")
	_, err := p.client.UpdateUser(ctx, in)
	return err
}

// keyDiff compares keys by type and content; comments do not count. A file without SshPublicKeys leaves them as they are.
func keyDiff(want []string, have []types.SshPublicKey) (add []string, drop []string, details []string) {
	if want == nil {
		return nil, nil, nil
	}
	has := func(body string) bool {
		return slices.ContainsFunc(have, func(k types.SshPublicKey) bool { return keyOf(aws.ToString(k.SshPublicKeyBody)) == body })
	}
	var wanted []string
	for _, key := range want {
		body := keyOf(key)
		if !has(body) && !slices.Contains(wanted, body) {
			add = append(add, key)
			details = append(details, "+ key "+keyName(key))
		}
		wanted = append(wanted, body)
	}
	for _, k := range have {
		if body := aws.ToString(k.SshPublicKeyBody); !slices.Contains(wanted, keyOf(body)) {
			drop = append(drop, aws.ToString(k.SshPublicKeyId))
			details = append(details, "- key "+keyName(body))
		}
	}
	return add, drop, details
}

// changeKeys imports before it deletes: a user who changes keys is never without one.
func (p *Plan) changeKeys(ctx context.Context, u *userProps, add, drop []string) error {
	for _, key := range add {
		_, err := p.client.ImportSshPublicKey(ctx, &transfer.ImportSshPublicKeyInput{ServerId: u.ServerId, UserName: u.UserName, SshPublicKeyBody: aws.String(key)})
		if err != nil {
			return err
		}
	}
	for _, id := range drop {
		_, err := p.client.DeleteSshPublicKey(ctx, &transfer.DeleteSshPublicKeyInput{ServerId: u.ServerId, UserName: u.UserName, SshPublicKeyId: aws.String(id)})
		if err != nil {
			return err
		}
	}
	return nil
}

// keyOf is a key without its comment.
func keyOf(key string) string {
	f := strings.Fields(key)
	return strings.Join(f[:min(len(f), 2)], " ")
}

// keyName is how people tell a key from another: its type, the end of its content, its comment.
func keyName(key string) string {
	f := strings.Fields(key)
	if len(f) < 2 {
		return show(key)
	}
	end := f[1][max(0, len(f[1])-12):]
	return strings.TrimSpace(f[0] + " ..." + end + " " + strings.Join(f[2:], " "))
}

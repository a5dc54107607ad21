package apply

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

func (p *Plan) planAccess(ctx context.Context, a *accessSpec) error {
	name := placeName(a.props.ServerId) + "/" + *a.props.ExternalId
	resolve(a.props, p.known)
	have, err := p.access(ctx, a.props)
	if err != nil {
		return err
	}
	if have == nil {
		p.add(&Change{Action: Create, Kind: "access", Name: name, Details: members(a.props, "ServerId", "ExternalId"), run: func(ctx context.Context, _ *Change) error {
			resolve(a.props, p.known)
			_, err := p.client.CreateAccess(ctx, a.props)
			return err
		}})
		return nil
	}
	differences := differ(a.props, have, "ServerId", "ExternalId")
	c := &Change{Action: None, Kind: "access", Name: name, Details: texts(differences)}
	if len(differences) > 0 {
		c.Action = Update
		c.run = func(ctx context.Context, _ *Change) error {
			in := &transfer.UpdateAccessInput{}
			for _, d := range differences {
				copyMembers(in, a.props, d.top())
			}
			// Type and mappings belong together: the API judges them as one.
			copyMembers(in, a.props, "ServerId", "ExternalId", "HomeDirectoryType", "HomeDirectoryMappings")
			_, err := p.client.UpdateAccess(ctx, in)
			return err
		}
	}
	p.add(c)
	return nil
}

// access asks for an access; nil if there is none, or not even a server yet.
func (p *Plan) access(ctx context.Context, a *transfer.CreateAccessInput) (*types.DescribedAccess, error) {
	if _, unknown := parseReference(*a.ServerId); unknown {
		return nil, nil
	}
	out, err := p.client.DescribeAccess(ctx, &transfer.DescribeAccessInput{ServerId: a.ServerId, ExternalId: a.ExternalId})
	var gone *types.ResourceNotFoundException
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return out.Access, nil
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// How long a server may take from one state to another, and how often it is asked.
const (
	transition = 2 * time.Minute
	pollEvery  = 100 * time.Millisecond
)

func (p *Plan) planServer(srv *serverSpec, found []types.DescribedServer) error {
	resolve(srv.props, p.known)
	if len(found) > 1 {
		return fmt.Errorf("two servers have the tag %s=%s: %s and %s; take it from one of them", Tag, srv.name,
			aws.ToString(found[0].ServerId), aws.ToString(found[1].ServerId))
	}
	if len(found) == 0 {
		p.add(&Change{Action: Create, Kind: "server", Name: srv.name, Details: members(srv.props), run: func(ctx context.Context, c *Change) error {
			return p.createServer(ctx, srv, c)
		}})
		return nil
	}
	return p.updateServer(srv, found[0])
}

func (p *Plan) createServer(ctx context.Context, srv *serverSpec, c *Change) error {
	resolve(srv.props, p.known)
	in := *srv.props
	in.Tags = named(in.Tags, srv.name)
	out, err := p.client.CreateServer(ctx, &in)
	if err != nil {
		return err
	}
	c.Id = aws.ToString(out.ServerId)
	server, err := p.await(ctx, out.ServerId, types.StateOnline, types.StateOffline)
	if server != nil {
		p.learn(srv.name, map[string]string{"ServerId": c.Id, "Arn": aws.ToString(server.Arn)})
	}
	return err
}

// updateServer plans the changes of a server that is there.
func (p *Plan) updateServer(srv *serverSpec, have types.DescribedServer) error {
	id := aws.ToString(have.ServerId)
	p.learn(srv.name, map[string]string{"ServerId": id, "Arn": aws.ToString(have.Arn)})
	// The host key counts when the server is made: nobody can ask for the one that it has.
	differences := differ(srv.props, have, "Tags", "HostKey")
	var changed []string
	for _, d := range differences {
		if !hasMember(transfer.UpdateServerInput{}, d.top()) {
			return fmt.Errorf("server %s (%s): %s cannot be changed from %s to %s; delete the server or give this one another name",
				srv.name, id, d.member, show(d.have), show(d.want))
		}
		if !slices.Contains(changed, d.top()) {
			changed = append(changed, d.top())
		}
	}
	set, drop, details := tagDiff(srv.props.Tags, have.Tags)
	c := &Change{Action: None, Kind: "server", Name: srv.name, Id: id, Details: append(texts(differences), details...)}
	if len(c.Details) == 0 {
		p.add(c)
		return nil
	}
	c.Action = Update
	restart := have.State == types.StateOnline && slices.ContainsFunc(differences, needsOffline)
	if restart {
		c.Details = append(c.Details, "(the server is stopped and started: this cannot be changed while it is ONLINE)")
	}
	c.run = func(ctx context.Context, _ *Change) error {
		resolve(srv.props, p.known)
		in := &transfer.UpdateServerInput{}
		copyMembers(in, srv.props, changed...)
		in.ServerId = have.ServerId
		return errors.Join(p.changeServer(ctx, in, len(changed) > 0, restart), p.changeTags(ctx, have.Arn, set, drop))
	}
	p.add(c)
	return nil
}

// needsOffline: AWS changes these only while the server is OFFLINE (page "Edit server details").
func needsOffline(d difference) bool {
	return d.top() == "EndpointType" || d.top() == "IpAddressType" || strings.Contains(d.member, "AddressAllocationIds")
}

func (p *Plan) changeServer(ctx context.Context, in *transfer.UpdateServerInput, any, restart bool) error {
	if !any {
		return nil
	}
	if restart {
		if _, err := p.client.StopServer(ctx, &transfer.StopServerInput{ServerId: in.ServerId}); err != nil {
			return err
		}
		if _, err := p.await(ctx, in.ServerId, types.StateOffline); err != nil {
			return err
		}
	}
	_, err := p.client.UpdateServer(ctx, in)
	if !restart {
		return err
	}
	// A server that was ONLINE is started again whether the change was taken or not.
	if _, startErr := p.client.StartServer(ctx, &transfer.StartServerInput{ServerId: in.ServerId}); startErr != nil {
		return errors.Join(err, startErr)
	}
	_, awaitErr := p.await(ctx, in.ServerId, types.StateOnline)
	return errors.Join(err, awaitErr)
}

// await polls until a server is in one of the states. A server that cannot start is an error that says why.
func (p *Plan) await(ctx context.Context, id *string, states ...types.State) (*types.DescribedServer, error) {
	ctx, cancel := context.WithTimeout(ctx, transition)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		out, err := p.client.DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: id})
		if err != nil {
			return nil, err
		}
		switch s := out.Server; {
		case slices.Contains(states, s.State):
			return s, nil
		case s.State == types.StateStartFailed || s.State == types.StateStopFailed:
			return s, fmt.Errorf("server %s is %s%s", aws.ToString(id), s.State, startError(s.Tags))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return out.Server, fmt.Errorf("server %s is still %s", aws.ToString(id), out.Server.State)
		}
	}
}

// startError is the reason that the daemon writes into a tag.
func startError(tags []types.Tag) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == "aws:transferd:start-error" {
			return ": " + aws.ToString(t.Value)
		}
	}
	return ""
}

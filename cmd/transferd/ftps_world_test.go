package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/crypto/argon2"

	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/identity/usersfile"
)

// ftpPassword is that of all users of the tests with FTP clients.
const ftpPassword = "correct-horse-9"

// ftpUsers writes a users file in which each user has a folder of the same name in the dev bucket. The hash costs little,
// because the tests log in hundreds of times.
func ftpUsers(t *testing.T, dir string, names []string) string {
	t.Helper()
	salt := []byte("sixteen bytes of")
	hash := fmt.Sprintf("$argon2id$v=%d$m=64,t=1,p=1$%s$%s", argon2.Version, base64.RawStdEncoding.EncodeToString(salt),
		base64.RawStdEncoding.EncodeToString(argon2.IDKey([]byte(ftpPassword), salt, 1, 64, 1, 32)))
	var b strings.Builder
	fmt.Fprintf(&b, "role: %s\nusers:\n", devRole)
	for _, name := range names {
		fmt.Fprintf(&b, "  - name: %s\n    password_hash: %s\n    home_directory_type: LOGICAL\n"+
			"    home_directory_mappings: [{entry: /, target: /%s/%s}]\n", name, hash, devBucket, name)
	}
	file := filepath.Join(dir, "ftp-users.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// ftpServer makes a server with these protocols and waits until it listens; it returns its host:port.
func (p *proc) ftpServer(details *types.ProtocolDetails, listen string, protocols ...types.Protocol) (id, address string) {
	p.t.Helper()
	return p.ftpServerOf(types.DomainS3, details, listen, protocols...)
}

// ftpServerOf makes one of a domain.
func (p *proc) ftpServerOf(domain types.Domain, details *types.ProtocolDetails, listen string, protocols ...types.Protocol) (id, address string) {
	p.t.Helper()
	details.SetStatOption = types.SetStatOptionEnableNoOp
	out, err := p.api().CreateServer(p.t.Context(), &transfer.CreateServerInput{
		Domain: domain, Protocols: protocols, Certificate: aws.String(devCertificate), ProtocolDetails: details,
		EndpointType:            types.EndpointTypeVpc,
		EndpointDetails:         &types.EndpointDetails{VpcId: aws.String("vpc-0123456789abcdef0"), SubnetIds: []string{"subnet-0123456789abcdef0"}},
		IdentityProviderType:    types.IdentityProviderTypeApiGateway,
		IdentityProviderDetails: &types.IdentityProviderDetails{Url: aws.String(usersfile.URL), InvocationRole: aws.String(devRole)},
		Tags:                    []types.Tag{{Key: aws.String(fleet.TagFTPAsk), Value: aws.String(listen)}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	id = aws.ToString(out.ServerId)
	return id, p.awaitAddress(id, fleet.TagFTPAddress)
}

// awaitAddress waits until a server says where it listens.
func (p *proc) awaitAddress(id, key string) (address string) {
	p.t.Helper()
	p.await(id+" listens", func() bool {
		s, err := p.api().DescribeServer(p.t.Context(), &transfer.DescribeServerInput{ServerId: &id})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, tag := range s.Server.Tags {
			if aws.ToString(tag.Key) == key {
				address = aws.ToString(tag.Value)
			}
		}
		return address != "" && s.Server.State == types.StateOnline
	})
	return address
}

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/identity/usersfile"
)

// devCertificate is the ARN of the certificate that dev mode signs itself.
const devCertificate = "arn:aws:acm:" + devRegion + ":" + devAccount + ":certificate/00000000-0000-4000-8000-000000000000"

func (f devFlags) usersFile() string { return cmp.Or(f.users, filepath.Join(f.data, "users.yaml")) }

func (f devFlags) certificate() certificates.Files {
	return certificates.Files{Certificate: filepath.Join(f.data, "ftp.crt"), Key: filepath.Join(f.data, "ftp.key")}
}

// ftpFiles makes what the FTP server needs and lacks: a certificate, and a users file unless one is named.
func (f devFlags) ftpFiles(state *devState) error {
	if err := f.ensureCertificate(); err != nil {
		return err
	}
	if f.users != "" {
		state.FTPPassword = ""
		return nil
	}
	if state.FTPPassword != "" {
		if _, err := os.Stat(f.usersFile()); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	state.FTPPassword = rand.Text()
	content := fmt.Sprintf(`# Users of FTP and FTPS; transferd reads this file again when it changes.
role: %s
users:
  - name: %s
    password_hash: %s
    home_directory_type: LOGICAL
    home_directory_mappings: [{entry: /, target: /%s}]
`, devRole, devUser, usersfile.HashPassword(state.FTPPassword), devBucket)
	if err := replaceFile(f.usersFile(), []byte(content), 0o600); err != nil {
		return err
	}
	return state.save(f.data)
}

// ensureCertificate makes the certificate, and another one when the server listens where the old one is not for.
func (f devFlags) ensureCertificate() error {
	files := f.certificate()
	host, _ := splitPort(f.ftp)
	if _, err := os.Stat(files.Certificate); err == nil {
		old, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
		if err != nil || host == "" || old.Leaf.VerifyHostname(host) == nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	certificate, key, err := certificates.SelfSigned(time.Now(), "localhost", "127.0.0.1", cmp.Or(host, "::1"))
	if err != nil {
		return err
	}
	if err := replaceFile(files.Key, key, 0o600); err != nil {
		return err
	}
	return replaceFile(files.Certificate, certificate, 0o644)
}

// ensureFTPServer makes the second server: FTP is for VPCs and for external identity providers alone, as on AWS.
func (s *devServer) ensureFTPServer(ctx context.Context, f devFlags) error {
	if s.state.FTPServerID != "" {
		_, err := s.client.DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: aws.String(string(s.state.FTPServerID))})
		var gone *types.ResourceNotFoundException
		if !errors.As(err, &gone) {
			return err
		}
	}
	out, err := s.client.CreateServer(ctx, &transfer.CreateServerInput{
		Protocols:               []types.Protocol{types.ProtocolFtp, types.ProtocolFtps},
		Certificate:             aws.String(devCertificate),
		EndpointType:            types.EndpointTypeVpc,
		EndpointDetails:         &types.EndpointDetails{VpcId: aws.String("vpc-0123456789abcdef0"), SubnetIds: []string{"subnet-0123456789abcdef0"}},
		IdentityProviderType:    types.IdentityProviderTypeApiGateway,
		IdentityProviderDetails: &types.IdentityProviderDetails{Url: aws.String(usersfile.URL), InvocationRole: aws.String(devRole)},
		ProtocolDetails:         &types.ProtocolDetails{SetStatOption: types.SetStatOptionEnableNoOp},
		Tags:                    []types.Tag{{Key: aws.String(fleet.TagFTPAsk), Value: aws.String(f.ftp)}, {Key: aws.String("Name"), Value: aws.String("dev-ftp")}},
	})
	if err != nil {
		return err
	}
	s.state.FTPServerID = server.ID(aws.ToString(out.ServerId))
	return s.state.save(f.data)
}

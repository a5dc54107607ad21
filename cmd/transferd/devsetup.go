package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
)

// devServer is the server that dev mode set up, and how to reach everything.
type devServer struct {
	daemon  *daemon
	state   *devState
	client  *transfer.Client
	keyPath string // the user's private key
	hosts   string // a known_hosts file with the server's keys
	sftp    string // host:port
	ftp     string // host:port, of the second server
	efs     string // the directory that devFileSystem stands for
}

// setUpDev makes what is missing: bucket, server, user, key. Server and user go through the control API, as a user of
// ours would do it.
func setUpDev(ctx context.Context, f devFlags, d *daemon, state *devState) (*devServer, error) {
	dev := &devServer{daemon: d, state: state, client: transferClient(d.apiURL(), state)}
	if err := d.store.CreateBucket(ctx, devBucket); err != nil {
		return nil, fmt.Errorf("create bucket %s: %w", devBucket, err)
	}
	keyPath, public, err := userKey(f.data)
	if err != nil {
		return nil, err
	}
	if dev.keyPath, err = filepath.Abs(keyPath); err != nil {
		return nil, err
	}
	if dev.efs, err = filepath.Abs(f.efsDir()); err != nil {
		return nil, err
	}
	if err := dev.ensureServer(ctx, f); err != nil {
		return nil, fmt.Errorf("create the server: %w", err)
	}
	if err := dev.ensureUser(ctx, public); err != nil {
		return nil, fmt.Errorf("create the user: %w", err)
	}
	if dev.sftp, err = d.address(ctx, state.ServerID, fleet.TagSFTPAddress); err != nil {
		return nil, err
	}
	if err := dev.ensureFTPServer(ctx, f); err != nil {
		return nil, fmt.Errorf("create the FTP server: %w", err)
	}
	if dev.ftp, err = d.address(ctx, state.FTPServerID, fleet.TagFTPAddress); err != nil {
		return nil, err
	}
	return dev, dev.writeKnownHosts(ctx, f.data)
}

// writeKnownHosts lets OpenSSH check the server's keys instead of asking whether to trust them.
func (s *devServer) writeKnownHosts(ctx context.Context, data string) error {
	keys, err := s.daemon.db.HostKeys(ctx, s.state.ServerID)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, k := range hostkeys.Active(keys) {
		signer, err := k.Signer(false)
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, knownhosts.Line([]string{s.sftp}, signer.PublicKey()))
	}
	if s.hosts, err = filepath.Abs(filepath.Join(data, "known_hosts")); err != nil {
		return err
	}
	return replaceFile(s.hosts, b.Bytes(), 0o644)
}

func transferClient(url string, state *devState) *transfer.Client {
	return transfer.New(transfer.Options{
		Region:       devRegion,
		BaseEndpoint: aws.String(url),
		Credentials:  credentials.NewStaticCredentialsProvider(state.AccessKey, state.SecretKey, ""),
	})
}

// ensureServer makes the server, or asks the one of an earlier start to listen where the flags say.
func (s *devServer) ensureServer(ctx context.Context, f devFlags) error {
	if s.state.ServerID != "" {
		_, err := s.client.DescribeServer(ctx, &transfer.DescribeServerInput{ServerId: aws.String(string(s.state.ServerID))})
		var gone *types.ResourceNotFoundException
		if !errors.As(err, &gone) {
			return err
		}
	}
	out, err := s.client.CreateServer(ctx, &transfer.CreateServerInput{
		Protocols:       []types.Protocol{types.ProtocolSftp},
		ProtocolDetails: &types.ProtocolDetails{SetStatOption: types.SetStatOptionEnableNoOp},
		Tags:            []types.Tag{{Key: aws.String(fleet.TagSFTPAsk), Value: aws.String(f.sftp)}, {Key: aws.String("Name"), Value: aws.String("dev")}},
	})
	if err != nil {
		return err
	}
	s.state.ServerID = server.ID(aws.ToString(out.ServerId))
	return s.state.save(f.data)
}

func (s *devServer) ensureUser(ctx context.Context, public string) error {
	id := aws.String(string(s.state.ServerID))
	_, err := s.client.CreateUser(ctx, &transfer.CreateUserInput{
		ServerId: id, UserName: aws.String(devUser), Role: aws.String(devRole),
		HomeDirectoryType:     types.HomeDirectoryTypeLogical,
		HomeDirectoryMappings: []types.HomeDirectoryMapEntry{{Entry: aws.String("/"), Target: aws.String("/" + devBucket)}},
		SshPublicKeyBody:      aws.String(public),
	})
	var exists *types.ResourceExistsException
	if errors.As(err, &exists) {
		return nil
	}
	return err
}

// env is what dev.env says: every name of the shared contract that this build can fill.
func (s *devServer) env() [][2]string {
	host, port := splitPort(s.sftp)
	_, ftpPort := splitPort(s.ftp)
	ftp := [][2]string{{"FTP_SERVER_ID", string(s.state.FTPServerID)}, {"FTP_PORT", ftpPort}}
	if s.state.FTPPassword != "" {
		ftp = append(ftp, [2]string{"FTP_USER", devUser}, [2]string{"FTP_PASSWORD", s.state.FTPPassword})
	}
	return append(ftp, [][2]string{
		{"AWS_ACCESS_KEY_ID", s.state.AccessKey},
		{"AWS_SECRET_ACCESS_KEY", s.state.SecretKey},
		{"AWS_REGION", devRegion},
		{"AWS_DEFAULT_REGION", devRegion},
		{"AWS_ENDPOINT_URL_TRANSFER", s.daemon.apiURL()},
		{"AWS_ENDPOINT_URL_S3", s.daemon.cfg.S3.Endpoint},
		{"TRANSFER_ENDPOINT", s.daemon.apiURL()},
		{"S3_ENDPOINT", s.daemon.cfg.S3.Endpoint},
		{"S3_BUCKET", devBucket},
		{"SERVER_ID", string(s.state.ServerID)},
		{"SFTP_HOST", host},
		{"SFTP_PORT", port},
		{"SFTP_USER", devUser},
		{"SFTP_KEY", s.keyPath},
		{"SFTP_KNOWN_HOSTS", s.hosts},
		{"EFS_FILE_SYSTEM_ID", devFileSystem},
		{"EFS_DIR", s.efs},
		{"METRICS_URL", s.daemon.metricsURL() + "/metrics"},
	}...)
}

func (s *devServer) writeEnv(data string) error {
	var b bytes.Buffer
	for _, kv := range s.env() {
		fmt.Fprintf(&b, "export %s=%s\n", kv[0], shellQuote(kv[1]))
	}
	return replaceFile(filepath.Join(data, "dev.env"), b.Bytes(), 0o600)
}

// shellQuote makes one word of POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+,=", r)
	}
	if s != "" && strings.IndexFunc(s, plain) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// printCommands shows what to type next.
func (s *devServer) printCommands(w io.Writer, data string) {
	host, port := splitPort(s.sftp)
	fmt.Fprintf(w, `transferd is up; its state is in %[1]s
  control API  %[2]s
  S3 store     %[3]s (bucket %[4]s)
  SFTP         %[5]s (server %[6]s, user %[7]s)
  FTP, FTPS    %[10]s (server %[11]s)
  metrics      %[8]s/metrics, /healthz, /readyz

Try, in another terminal:
  . %[9]s
  sftp -i "$SFTP_KEY" -P "$SFTP_PORT" -o UserKnownHostsFile="$SFTP_KNOWN_HOSTS" "$SFTP_USER@$SFTP_HOST"
  curl --ssl-reqd --cacert %[12]s -T FILE -u "$FTP_USER:$FTP_PASSWORD" "ftp://localhost:$FTP_PORT/"
  aws transfer list-servers --endpoint-url "$TRANSFER_ENDPOINT"
  aws s3 ls "s3://$S3_BUCKET" --endpoint-url "$S3_ENDPOINT"

`, data, s.daemon.apiURL(), s.daemon.cfg.S3.Endpoint, devBucket, host+":"+port, s.state.ServerID, devUser,
		s.daemon.metricsURL(), filepath.Join(data, "dev.env"), s.ftp, s.state.FTPServerID, filepath.Join(data, "ftp.crt"))
}

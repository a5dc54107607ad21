package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// signingService is what API Gateway's endpoints are called in a signature's scope.
const signingService = "execute-api"

// gatewayHost is the host of a REST API, which names its region: {api}.execute-api.{region}.amazonaws.com.
var gatewayHost = regexp.MustCompile(`\.execute-api\.([a-z0-9-]+)\.amazonaws\.com`)

// Credentials sign requests.
type Credentials struct{ AccessKeyID, SecretKey, SessionToken string }

// sign signs a request (Signature Version 4) if the server has an InvocationRole and we have its credentials.
func (p *Provider) sign(ctx context.Context, r *http.Request, role string) error {
	if role == "" {
		return nil
	}
	c, found, err := p.Credentials(ctx, role)
	if err != nil {
		return fmt.Errorf("credentials of %s: %w", role, err)
	}
	if !found {
		return nil
	}
	region := p.Region
	if m := gatewayHost.FindStringSubmatch(r.URL.Host); m != nil {
		region = m[1]
	}
	empty := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(ctx, aws.Credentials{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken,
	}, r, hex.EncodeToString(empty[:]), signingService, region, p.Now()); err != nil {
		return fmt.Errorf("sign the request: %w", err)
	}
	return nil
}

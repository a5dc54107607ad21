package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
)

// apiFlags say how a command reaches the control API: the variables are those of AWS's tools and of dev.env.
type apiFlags struct{ endpoint, caBundle string }

func (f *apiFlags) flags(fs *flag.FlagSet) {
	fs.StringVar(&f.endpoint, "endpoint", "", "the control API's `URL` (default AWS_ENDPOINT_URL_TRANSFER, TRANSFER_ENDPOINT or AWS_ENDPOINT_URL)")
	fs.StringVar(&f.caBundle, "ca-bundle", "", "`file` with the certificates to trust, PEM (default AWS_CA_BUNDLE, else the system's)")
}

const apiEnvironment = `Reads AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL_TRANSFER from the environment, as AWS's
tools do; transferd dev writes them to DATA/dev.env.`

// client makes a client of the control API. There is no default endpoint: that would be AWS's own.
func (f *apiFlags) client() (*transfer.Client, error) {
	endpoint := cmp.Or(f.endpoint, os.Getenv("AWS_ENDPOINT_URL_TRANSFER"), os.Getenv("TRANSFER_ENDPOINT"), os.Getenv("AWS_ENDPOINT_URL"))
	if endpoint == "" {
		return nil, errors.New("no endpoint: give -endpoint or set AWS_ENDPOINT_URL_TRANSFER")
	}
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if id == "" || secret == "" {
		return nil, errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	o := transfer.Options{
		Region:       cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), devRegion),
		BaseEndpoint: aws.String(endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(id, secret, os.Getenv("AWS_SESSION_TOKEN")),
	}
	if bundle := cmp.Or(f.caBundle, os.Getenv("AWS_CA_BUNDLE")); bundle != "" {
		c, err := trusting(bundle)
		if err != nil {
			return nil, err
		}
		o.HTTPClient = c
	}
	return transfer.New(o), nil
}

// trusting is an HTTP client that believes the authorities in a file and no others.
func trusting(bundle string) (*http.Client, error) {
	roots, err := pool(bundle)
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}, nil
}

// table prints rows under a headline.
func table(w io.Writer, headline string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, headline)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

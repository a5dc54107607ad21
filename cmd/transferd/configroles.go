package main

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/server/identity/gateway"
	"github.com/transferd/transferd/storage/s3"
)

// roleFile is what a role stands for. Without credentials it has those of s3; every other key that it does not have is
// as in s3 too.
type roleFile struct {
	// The store's URL.
	Endpoint string `yaml:"endpoint"`
	// The store's region.
	Region string `yaml:"region"`
	// Put the bucket into the path instead of the host name.
	PathStyle *bool `yaml:"path_style"`
	// The access key id.
	AccessKey string `yaml:"access_key"`
	// Its secret. Better not here but in the environment: TRANSFERD_ROLE_KEYS=ID:SECRET.
	SecretKey string `yaml:"secret_key"`
	// The token of temporary credentials, if they are.
	SessionToken string `yaml:"session_token"`
	// Take the credentials from where AWS's tools find them.
	Environment bool `yaml:"environment"`
	// Borrow a role with the credentials above, or with those of s3.
	AssumeRole *assumeRoleFile `yaml:"assume_role"`
	// Borrow a role with an OpenID Connect token.
	WebIdentity *webIdentityFile `yaml:"web_identity"`
	// A file with certificates that are trusted beside the system's.
	CAFile string `yaml:"ca_file"`
	// The URL of an HTTP proxy on the way there.
	Proxy string `yaml:"proxy"`
}

// assumeRoleFile is a role that an STS lends (AssumeRole).
type assumeRoleFile struct {
	// The role to borrow. Empty: the one that this stands for.
	RoleARN string `yaml:"role_arn"`
	// What the role's owner asks for.
	ExternalID string `yaml:"external_id"`
	// The STS's URL. Empty: AWS's own for the region.
	STSEndpoint string `yaml:"sts_endpoint"`
	// For how long, 15m to 12h. 0: an hour.
	Duration time.Duration `yaml:"duration"`
}

// webIdentityFile is a role that an STS lends for a token (AssumeRoleWithWebIdentity).
type webIdentityFile struct {
	// The role to borrow. Empty: the one that this stands for.
	RoleARN string `yaml:"role_arn"`
	// The file with the token.
	TokenFile string `yaml:"token_file"`
	// The STS's URL. Empty: AWS's own for the region.
	STSEndpoint string `yaml:"sts_endpoint"`
	// For how long, 15m to 12h. 0: an hour.
	Duration time.Duration `yaml:"duration"`
}

// lentRole is what one of both says; nil if none does. arn is the role that it stands for.
func lentRole(a *assumeRoleFile, w *webIdentityFile, arn string) *s3.Role {
	switch {
	case a != nil:
		return &s3.Role{ARN: cmp.Or(a.RoleARN, arn), ExternalID: a.ExternalID, Endpoint: a.STSEndpoint, Duration: a.Duration}
	case w != nil:
		return &s3.Role{ARN: cmp.Or(w.RoleARN, arn), TokenFile: w.TokenFile, Endpoint: w.STSEndpoint, Duration: w.Duration}
	}
	return nil
}

// setRoleSecret gives an access key of the file its secret. An id that no role has is nobody's.
func (f *configFile) setRoleSecret(id, secret string) {
	for arn, r := range f.Roles {
		if r.AccessKey == id {
			r.SecretKey = secret
			f.Roles[arn] = r
		}
	}
}

// roles are those that sign requests to identity providers.
func (f *configFile) roles() map[string]gateway.Credentials {
	all := map[string]gateway.Credentials{}
	for arn, r := range f.Roles {
		if r.AccessKey != "" {
			all[arn] = gateway.Credentials{AccessKeyID: r.AccessKey, SecretKey: r.SecretKey, SessionToken: r.SessionToken}
		}
	}
	return all
}

// store is the daemon's own.
func (f *configFile) store() S3Config {
	return S3Config{
		Endpoint: f.S3.Endpoint, Region: cmp.Or(f.S3.Region, f.Region), PathStyle: f.S3.PathStyle,
		AccessKey: f.S3.AccessKey, SecretKey: f.S3.SecretKey, SessionToken: f.S3.SessionToken, Environment: f.S3.Environment,
		Role: lentRole(f.S3.AssumeRole, f.S3.WebIdentity, ""), CAFile: f.S3.CAFile, Proxy: f.S3.Proxy,
		RetryBudget: f.S3.Retry, Unsigned: f.S3.UnsignedPayload,
	}
}

// roleStores are what roles stand for.
func (f *configFile) roleStores() map[string]S3Config {
	own := f.store()
	all := make(map[string]S3Config, len(f.Roles))
	for arn, r := range f.Roles {
		c := S3Config{
			Endpoint: cmp.Or(r.Endpoint, own.Endpoint), Region: cmp.Or(r.Region, own.Region), PathStyle: own.PathStyle,
			AccessKey: r.AccessKey, SecretKey: r.SecretKey, SessionToken: r.SessionToken, Environment: r.Environment,
			Role: lentRole(r.AssumeRole, r.WebIdentity, arn), CAFile: cmp.Or(r.CAFile, own.CAFile), Proxy: cmp.Or(r.Proxy, own.Proxy),
			RetryBudget: own.RetryBudget, Unsigned: own.Unsigned,
		}
		if r.PathStyle != nil {
			c.PathStyle = *r.PathStyle
		}
		all[arn] = c
	}
	return all
}

// config is the part of s3.Config that belongs to an endpoint.
func (c S3Config) config() s3.Config {
	return s3.Config{
		Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle, UnsignedPayload: c.Unsigned,
		AccessKey: c.AccessKey, SecretKey: c.SecretKey, SessionToken: c.SessionToken, Environment: c.Environment,
		Role: c.Role, CAFile: c.CAFile, Proxy: c.Proxy,
	}
}

// judgeStores says what cannot be true of the object store and of roles.
func (f *configFile) judgeStores(at yamlstrict.Lines) error {
	var errs []error
	require := func(ok bool, key, reason string) {
		if !ok {
			errs = append(errs, at.At(key, reason))
		}
	}
	// Without any other credentials these two are wanted; with them they must not be there.
	if own := f.S3; !own.Environment && own.WebIdentity == nil {
		require(own.AccessKey != "", "s3.access_key", "is missing; set it or "+envS3AccessKey)
		require(own.SecretKey != "", "s3.secret_key", "is missing; set it or "+envS3SecretKey)
	}
	errs = append(errs, judgeStore("s3", f.store(), f.S3.AssumeRole, f.S3.WebIdentity, at))
	stores := f.roleStores()
	for _, arn := range slices.Sorted(maps.Keys(f.Roles)) {
		r, key := f.Roles[arn], "roles."+arn
		require(r.SecretKey == "" || r.AccessKey != "", key, "needs an access_key")
		require(r.AccessKey == "" || r.SecretKey != "", key, "needs a secret_key: "+envRoleKeys+"="+cmp.Or(r.AccessKey, "ID")+":SECRET in the environment, or here")
		require(r.Endpoint == "" || webURL(r.Endpoint), key+".endpoint", "must be a URL such as https://s3.example.com")
		errs = append(errs, judgeStore(key, stores[arn], r.AssumeRole, r.WebIdentity, at))
	}
	return errors.Join(errs...)
}

// judgeStore is about what s3 and roles have in common.
func judgeStore(key string, c S3Config, a *assumeRoleFile, w *webIdentityFile, at yamlstrict.Lines) error {
	switch {
	case a != nil && w != nil:
		return at.At(key, "has assume_role or web_identity, not both")
	case w != nil && w.TokenFile == "":
		return at.At(key+".web_identity", "needs a token_file")
	case c.Role != nil && c.Role.Endpoint != "" && !webURL(c.Role.Endpoint):
		return at.At(key, "its sts_endpoint must be a URL such as https://sts.example.com")
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return nil // said already
	}
	if err := c.config().Check(); err != nil {
		return at.At(key, err.Error())
	}
	return nil
}

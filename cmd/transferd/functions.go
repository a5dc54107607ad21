package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/workflow/functions"
	"github.com/transferd/transferd/workflow/steps"
)

// functionFile is what a Lambda ARN stands for: exactly one of url, lambda and command.
type functionFile struct {
	// An https URL that the payload is posted to; http is for this machine alone. Its answer is a status of 2xx, and then
	// SendWorkflowStepState.
	URL string `yaml:"url"`
	// What signs the posts: the key of the HMAC-SHA256 in Transferd-Signature. Better in TRANSFERD_FUNCTION_SECRETS.
	Secret string `yaml:"secret"`
	// A Lambda endpoint, AWS's own or any that speaks its API.
	Lambda lambdaFile `yaml:"lambda"`
	// A program, by its absolute path, and its arguments. It gets the payload on its standard input; exit status 0 is
	// SUCCESS, without a callback.
	Command []string `yaml:"command"`
	// The program's whole environment, but for TRANSFERD_ATTEMPT.
	Env map[string]string `yaml:"env"`
	// The folder that the program runs in. Empty is /.
	Dir string `yaml:"dir"`
	// How long one call, or the program, may take. 0: 30 seconds for calls, the step's TimeoutSeconds for programs.
	Timeout time.Duration `yaml:"timeout"`
	// The address space of each of the program's processes. 0: no limit.
	Memory byteCount `yaml:"memory"`
	// How much of the program's output is kept for the log, if it fails. 0: 64KiB.
	Output byteCount `yaml:"output"`
}

type lambdaFile struct {
	// The endpoint's URL. Empty is AWS's own for the region.
	Endpoint string `yaml:"endpoint"`
	// The region. Empty is the daemon's.
	Region string `yaml:"region"`
	// The access key id to use there.
	AccessKey string `yaml:"access_key"`
	// Its secret. Better in TRANSFERD_FUNCTION_SECRETS.
	SecretKey string `yaml:"secret_key"`
	// The token of temporary credentials, if they are.
	SessionToken string `yaml:"session_token"`
	// The function's name or ARN there. Empty is the ARN that this stands for.
	Function string `yaml:"function"`
	// Wait for the function's end (InvocationType RequestResponse) to see errors that it throws at once. AWS does not (Event).
	Respond bool `yaml:"respond"`
}

// envFunctionSecrets holds secrets of functions, ARN=SECRET, several with spaces or commas between them.
const envFunctionSecrets = "TRANSFERD_FUNCTION_SECRETS"

// addFunctionSecrets puts the environment's secrets over those of the file. A function that the file does not have is
// nobody's.
func (f *configFile) addFunctionSecrets(getenv func(string) string) error {
	separator := func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }
	for i, pair := range strings.FieldsFunc(getenv(envFunctionSecrets), separator) {
		arn, secret, ok := strings.Cut(pair, "=")
		if !ok || arn == "" || secret == "" {
			return fmt.Errorf("%s: entry %d is not ARN=SECRET", envFunctionSecrets, i+1)
		}
		fn, known := f.Functions[arn]
		if !known {
			continue
		}
		if fn.URL != "" {
			fn.Secret = secret
		} else {
			fn.Lambda.SecretKey = secret
		}
		f.Functions[arn] = fn
	}
	return nil
}

// judgeFunctions says what cannot be called.
func judgeFunctions(all map[string]functionFile, at yamlstrict.Lines) error {
	var errs []error
	for arn, fn := range all {
		key := "functions." + arn
		for _, wrong := range fn.judge(arn) {
			errs = append(errs, at.At(key, wrong))
		}
	}
	return errors.Join(errs...)
}

func (fn functionFile) judge(arn string) []string {
	var wrong []string
	require := func(ok bool, reason string) {
		if !ok {
			wrong = append(wrong, reason)
		}
	}
	kinds := 0
	for _, given := range []bool{fn.URL != "", fn.Lambda != lambdaFile{}, len(fn.Command) > 0} {
		if given {
			kinds++
		}
	}
	require(strings.HasPrefix(arn, "arn:") && strings.Contains(arn, ":lambda:"), "is no ARN of a Lambda function, which CUSTOM steps have as Target")
	require(kinds == 1, "needs exactly one of url, lambda and command")
	require(fn.Timeout >= 0, "timeout must not be negative")
	if fn.URL != "" {
		require(functionURL(fn.URL), "url must be an https URL; http is for this machine alone")
		require(fn.Secret != "", "needs a secret: "+envFunctionSecrets+"="+arn+"=SECRET in the environment, or here")
	}
	if l := fn.Lambda; l != (lambdaFile{}) {
		require(l.Endpoint == "" || webURL(l.Endpoint), "lambda.endpoint must be a URL")
		require(l.AccessKey != "", "lambda needs an access_key")
		require(l.SecretKey != "", "lambda needs a secret_key: "+envFunctionSecrets+"="+arn+"=SECRET in the environment, or here")
	}
	if len(fn.Command) > 0 {
		require(filepath.IsAbs(fn.Command[0]), "command must begin with an absolute path")
		info, err := os.Stat(fn.Command[0])
		require(err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0, "command "+fn.Command[0]+" is no program")
		require(fn.Memory == 0 || functions.CanLimitMemory, "memory cannot be limited on this system")
		return wrong
	}
	require(len(fn.Env) == 0 && fn.Dir == "" && fn.Memory == 0 && fn.Output == 0, "env, dir, memory and output are for commands")
	return wrong
}

// functionURL: a payload names files and holds a token, so it goes through TLS or not over any wire.
func functionURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// targets are the functions as CUSTOM steps call them.
func (c Config) targets() map[string]steps.Target {
	all := make(map[string]steps.Target, len(c.Functions))
	client := functions.NewClient()
	for arn, fn := range c.Functions {
		switch {
		case fn.URL != "":
			all[arn] = steps.Target{Function: &functions.Webhook{
				URL: fn.URL, Secret: []byte(fn.Secret), Client: client, Timeout: fn.Timeout, Now: time.Now,
			}}
		case len(fn.Command) > 0:
			all[arn] = steps.Target{Synchronous: true, Function: &functions.Command{
				Args: fn.Command, Env: fn.environment(), Dir: fn.Dir, Timeout: fn.Timeout, Memory: int64(fn.Memory), Output: int(fn.Output),
			}}
		default:
			l := fn.Lambda
			all[arn] = steps.Target{Function: &functions.Lambda{
				ARN: cmp.Or(l.Function, arn), Respond: l.Respond, Timeout: fn.Timeout,
				Client: functions.NewLambda(functions.LambdaConfig{
					Endpoint: l.Endpoint, Region: cmp.Or(l.Region, c.Realm.Region),
					Credentials: credentials.NewStaticCredentialsProvider(l.AccessKey, l.SecretKey, l.SessionToken),
				}),
			}}
		}
	}
	return all
}

func (fn functionFile) environment() []string {
	var env []string
	for name, value := range fn.Env {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// loadFunctions reads a file that holds nothing but the key functions, for dev mode; "" is none.
func loadFunctions(name string) (map[string]functionFile, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	node, err := yamlstrict.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var f struct {
		Functions map[string]functionFile `yaml:"functions"`
	}
	lines, err := yamlstrict.Decode(node, &f)
	if err == nil {
		err = judgeFunctions(f.Functions, lines)
	}
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, err)
	}
	return f.Functions, nil
}

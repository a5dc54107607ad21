// Package acceptance holds the tests that show the control plane to its users' own tools: the Go SDK and boto3 run one
// table of requests (testdata/operations.json), the AWS command line runs every command, and the requests that Terraform
// makes are repeated call by call. All of it against the real server/api over the real server/db, with the real
// server/fleet over frontends that speak no protocol.
//
// It has no code of its own and nobody imports it. It knows the API from outside only: what a test here needs to know of
// the inside belongs into the tests of server/api.
package acceptance

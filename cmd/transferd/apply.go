package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/transferd/transferd/cmd/transferd/internal/apply"
)

const applyAbout = `transferd apply: bring servers, their users, keys and accesses, and workflows to the state that a YAML file describes.

The file has the API's own member names, or is a CloudFormation template with AWS::Transfer::Server, User and Workflow:

  Workflows:
    archive:
      Steps:
        - Type: COPY
          CopyStepDetails:
            DestinationFileLocation: {S3FileLocation: {Bucket: dev-bucket, Key: archive/}}
  Servers:
    main:
      Protocols: [SFTP]
      WorkflowDetails:
        OnUpload:
          - {WorkflowId: !Ref archive, ExecutionRole: "arn:aws:iam::000000000000:role/transfer"}
      Users:
        alice:
          Role: arn:aws:iam::000000000000:role/transfer
          HomeDirectory: /dev-bucket/alice
          SshPublicKeys: ["ssh-ed25519 AAAA... alice"]

Servers and workflows are found again by the tag transferd:apply, users by their names, so a second run changes nothing.
What the file does not mention stays. SshPublicKeys and Tags, where the file has them, are the whole list. A workflow that
differs is made anew and takes the old one's place. Nothing else is deleted.

` + apiEnvironment + `
Exit status: 0 the state is reached, or the plan is printed; 1 something failed; 2 the command or the file makes no sense.

Examples:
  transferd apply -f transfer.yaml --plan
  transferd apply -f transfer.yaml
  transferd apply -f template.yaml -endpoint https://transfer.example.com:8470 -ca-bundle ca.pem --json`

func runApply(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "apply", applyAbout)
	name := fs.String("f", "", "the `file`; - is standard input")
	planOnly := fs.Bool("plan", false, "print what would be done, and do nothing")
	asJSON := fs.Bool("json", false, "print JSON")
	var at apiFlags
	at.flags(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	if *name == "" {
		fmt.Fprintln(p.stderr, "transferd apply: -f FILE is missing")
		return errUsage
	}
	spec, err := loadSpec(*name)
	if err != nil {
		fmt.Fprintf(p.stderr, "transferd apply: %s:\n%v\n", *name, err)
		return errUsage
	}
	client, err := at.client()
	if err != nil {
		return err
	}
	plan, err := spec.Plan(ctx, client)
	if err != nil {
		return err
	}
	done := plan.Changes
	var failure error
	if !*planOnly {
		done, failure = plan.Run(ctx)
	}
	if *asJSON {
		err = applyJSON(p.stdout, done, !*planOnly)
	} else {
		err = applyText(p.stdout, done, plan.Counts(), *planOnly)
	}
	if failure != nil {
		return failure
	}
	return err
}

func loadSpec(name string) (*apply.Spec, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(os.Stdin)
	} else {
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, err
	}
	return apply.Load(b)
}

func applyJSON(w io.Writer, changes []*apply.Change, applied bool) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Applied bool // false: a plan
		Changes []*apply.Change
	}{applied, append([]*apply.Change{}, changes...)})
}

// applyText prints a plan with its details, or a table of what was done.
func applyText(w io.Writer, changes []*apply.Change, n map[apply.Action]int, planned bool) error {
	changing := n[apply.Create] + n[apply.Update] + n[apply.Replace] + n[apply.Delete]
	if !planned {
		words := map[apply.Action]string{apply.Create: "created", apply.Update: "updated", apply.Replace: "replaced", apply.Delete: "deleted"}
		var rows [][]string
		for _, c := range changes {
			done, ok := words[c.Action]
			if !ok {
				done = string(c.Action)
			}
			rows = append(rows, []string{done, c.Kind, c.Name, c.Id})
		}
		return table(w, "DONE\tKIND\tNAME\tID", rows)
	}
	for _, c := range changes {
		if c.Action == apply.None {
			continue
		}
		fmt.Fprintf(w, "%s %s %s %s\n", c.Action, c.Kind, c.Name, c.Id)
		for _, d := range c.Details {
			fmt.Fprintf(w, "    %s\n", d)
		}
	}
	if changing == 0 {
		_, err := fmt.Fprintf(w, "Nothing to do: all %d are as the file has them.\n", n[apply.None])
		return err
	}
	_, err := fmt.Fprintf(w, "Plan: %d to create, %d to update, %d to replace, %d to delete, %d unchanged.\n",
		n[apply.Create], n[apply.Update], n[apply.Replace], n[apply.Delete], n[apply.None])
	return err
}

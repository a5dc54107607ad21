// Package apply brings a control plane to the state that a file describes: servers with their users, keys and accesses,
// and workflows. It is a client like any other: it speaks the API through the SDK and knows nothing else of the daemon.
//
// The way of a file: Load reads it (spec.go, template.go), Plan compares it with what is there (plan.go and one file a
// noun, diff.go), Run carries out what differs. Servers and workflows are found again by a tag with their name, users by
// their name, accesses by their group. What the file does not mention stays as it is, member by member, and nothing is
// deleted but what a replaced workflow and a user's list of keys leave over.
package apply

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"go.yaml.in/yaml/v3"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
)

// Tag is the key of the tag that holds a resource's name in the file.
const Tag = "transferd:apply"

// Spec is what a file describes.
type Spec struct {
	workflows []*workflowSpec
	servers   []*serverSpec
	users     []*userSpec
	accesses  []*accessSpec
}

type workflowSpec struct {
	name  string
	props *transfer.CreateWorkflowInput
}

type serverSpec struct {
	name  string
	props *transfer.CreateServerInput
}

type userSpec struct {
	line  int
	props *userProps
}

type accessSpec struct {
	props *transfer.CreateAccessInput
}

// userProps are the members of CreateUser, with keys as CloudFormation has them: a list.
type userProps struct {
	HomeDirectory         *string
	HomeDirectoryMappings []types.HomeDirectoryMapEntry
	HomeDirectoryType     types.HomeDirectoryType
	Policy                *string
	PosixProfile          *types.PosixProfile
	Role                  *string
	ServerId              *string
	SshPublicKeys         []string
	Tags                  []types.Tag
	UserName              *string
}

// document is a file in the form of the API's own members.
type document struct {
	Workflows map[string]*transfer.CreateWorkflowInput
	Servers   map[string]*struct {
		transfer.CreateServerInput

		Users    map[string]*userProps
		Accesses map[string]*transfer.CreateAccessInput
	}
}

// Load reads a file, in either form. All that is wrong with it comes at once, each error with its line.
func Load(b []byte) (*Spec, error) {
	root, err := yamlstrict.Parse(b)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, errors.New("the file is empty")
	}
	if err := replaceIntrinsics(root); err != nil {
		return nil, err
	}
	s := &Spec{}
	if isTemplate(root) {
		err = s.loadTemplate(root)
	} else {
		err = s.loadDocument(root)
	}
	if err != nil {
		return nil, err
	}
	return s, s.check()
}

func isTemplate(root *yaml.Node) bool {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == "Resources" {
			return root.Kind == yaml.MappingNode
		}
	}
	return false
}

func (s *Spec) loadDocument(root *yaml.Node) error {
	var d document
	lines, err := yamlstrict.Decode(root, &d)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.Workflows)) {
		if d.Workflows[name] == nil {
			errs = append(errs, lines.At("Workflows."+name, "has no members"))
			continue
		}
		s.workflows = append(s.workflows, &workflowSpec{name, d.Workflows[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Servers)) {
		at, srv := "Servers."+name, d.Servers[name]
		if srv == nil {
			errs = append(errs, lines.At(at, "has no members; {} makes a server with every default"))
			continue
		}
		s.servers = append(s.servers, &serverSpec{name, &srv.CreateServerInput})
		id := reference{name, "ServerId"}.String()
		for _, user := range slices.Sorted(maps.Keys(srv.Users)) {
			errs = append(errs, s.addUser(lines, at+".Users."+user, id, user, srv.Users[user]))
		}
		for _, group := range slices.Sorted(maps.Keys(srv.Accesses)) {
			errs = append(errs, s.addAccess(lines, at+".Accesses."+group, id, group, srv.Accesses[group]))
		}
	}
	return errors.Join(errs...)
}

func (s *Spec) addUser(lines yamlstrict.Lines, at, server, name string, u *userProps) error {
	switch {
	case u == nil:
		return lines.At(at, "has no members; a user needs a Role")
	case u.ServerId != nil || u.UserName != nil:
		return lines.At(at, "ServerId and UserName follow from where it stands")
	case u.Role == nil:
		return lines.At(at, "needs a Role")
	}
	u.ServerId, u.UserName = &server, &name
	s.users = append(s.users, &userSpec{lines[at], u})
	return nil
}

func (s *Spec) addAccess(lines yamlstrict.Lines, at, server, group string, a *transfer.CreateAccessInput) error {
	switch {
	case a == nil:
		return lines.At(at, "has no members; an access needs a Role")
	case a.ServerId != nil || a.ExternalId != nil:
		return lines.At(at, "ServerId and ExternalId follow from where it stands")
	case a.Role == nil:
		return lines.At(at, "needs a Role")
	}
	a.ServerId, a.ExternalId = &server, &group
	s.accesses = append(s.accesses, &accessSpec{a})
	return nil
}

// check looks at what refers to what.
func (s *Spec) check() error {
	attributes := map[string][]string{}
	var errs []error
	add := func(name string, has ...string) {
		if attributes[name] != nil {
			errs = append(errs, fmt.Errorf("%s names two resources", name))
		}
		attributes[name] = has
	}
	for _, w := range s.workflows {
		add(w.name, "WorkflowId", "Arn")
		if len(w.props.Steps) == 0 && w.props.OnExceptionSteps == nil && w.props.Steps == nil {
			errs = append(errs, fmt.Errorf("workflow %s needs Steps", w.name))
		}
	}
	for _, srv := range s.servers {
		add(srv.name, "ServerId", "Arn")
	}
	verify := func(who string, props any) {
		for _, r := range references(props) {
			if has, ok := attributes[r.name]; !ok {
				errs = append(errs, fmt.Errorf("%s: %s is no server or workflow of this file", who, r.name))
			} else if !slices.Contains(has, r.attribute) {
				errs = append(errs, fmt.Errorf("%s: %s has no %s, only %s", who, r.name, r.attribute, strings.Join(has, " and ")))
			}
		}
	}
	for _, w := range s.workflows {
		verify("workflow "+w.name, w.props)
	}
	for _, srv := range s.servers {
		verify("server "+srv.name, srv.props)
	}
	for _, u := range s.users {
		verify("user "+*u.props.UserName, u.props)
	}
	for _, a := range s.accesses {
		verify("access "+*a.props.ExternalId, a.props)
	}
	return errors.Join(errs...)
}

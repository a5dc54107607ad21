package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"go.yaml.in/yaml/v3"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
)

// template is a CloudFormation template, as far as one is read.
type template struct {
	AWSTemplateFormatVersion string
	Description              string
	Metadata                 yaml.Node
	Resources                map[string]*templateResource
	Outputs                  yaml.Node
}

// templateResource is one resource. What is said of its end has no meaning here: nothing is deleted.
type templateResource struct {
	Type                string
	Properties          yaml.Node
	DependsOn           yaml.Node
	Metadata            yaml.Node
	DeletionPolicy      string
	UpdateReplacePolicy string
}

func (s *Spec) loadTemplate(root *yaml.Node) error {
	for i := 0; i+1 < len(root.Content); i += 2 {
		if key := root.Content[i]; slices.Contains([]string{"Parameters", "Mappings", "Conditions", "Rules", "Transform"}, key.Value) {
			return &yamlstrict.Error{Line: key.Line, Key: key.Value, Reason: "is not supported: write the values where they are used"}
		}
	}
	var t template
	lines, err := yamlstrict.Decode(root, &t)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range inOrder(lines, t.Resources) {
		if t.Resources[name] == nil {
			errs = append(errs, lines.At("Resources."+name, "has no members"))
			continue
		}
		errs = append(errs, s.addResource(lines, name, t.Resources[name]))
	}
	return errors.Join(errs...)
}

// inOrder lists resources as the template does.
func inOrder(lines yamlstrict.Lines, resources map[string]*templateResource) []string {
	var names []string
	for name := range resources {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return lines["Resources."+a] - lines["Resources."+b] })
	return names
}

func (s *Spec) addResource(lines yamlstrict.Lines, name string, r *templateResource) error {
	at := "Resources." + name
	var node *yaml.Node
	if r.Properties.Kind != 0 {
		node = &r.Properties
	}
	switch r.Type {
	case "AWS::Transfer::Server":
		props := &transfer.CreateServerInput{}
		s.servers = append(s.servers, &serverSpec{name, props})
		return decodeProperties(node, at, props)
	case "AWS::Transfer::Workflow":
		props := &transfer.CreateWorkflowInput{}
		s.workflows = append(s.workflows, &workflowSpec{name, props})
		return decodeProperties(node, at, props)
	case "AWS::Transfer::User":
		props := &userProps{}
		if err := decodeProperties(node, at, props); err != nil {
			return err
		}
		if props.ServerId == nil || props.UserName == nil || props.Role == nil {
			return lines.At(at, "a user needs ServerId, UserName and Role")
		}
		if ref, ok := parseReference(*props.ServerId); ok && ref.attribute != "ServerId" {
			return lines.At(at, fmt.Sprintf("Ref of a server is its ARN: ServerId must be !GetAtt %s.ServerId", ref.name))
		}
		s.users = append(s.users, &userSpec{lines[at], props})
		return nil
	}
	if strings.HasPrefix(r.Type, "AWS::Transfer::") {
		return lines.At(at+".Type", r.Type+" is not supported")
	}
	return lines.At(at+".Type", "is not AWS::Transfer::Server, User or Workflow")
}

// decodeProperties reads the properties of a resource.
func decodeProperties(node *yaml.Node, at string, into any) error {
	_, err := yamlstrict.DecodeAt(node, at+".Properties", into)
	return err
}

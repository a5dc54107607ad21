package apply

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
)

// reference is what !Ref and !GetAtt become: a string that no member can hold otherwise, until the resource has its id.
type reference struct{ name, attribute string }

const referenceMark = "\x00"

func (r reference) String() string { return referenceMark + r.name + "." + r.attribute }

func parseReference(s string) (reference, bool) {
	rest, ok := strings.CutPrefix(s, referenceMark)
	if !ok {
		return reference{}, false
	}
	name, attribute, _ := strings.Cut(rest, ".")
	return reference{name, attribute}, true
}

// The kinds whose Ref is not their id; see refAttribute.
const refOfServer = "AWS::Transfer::Server"

// replaceIntrinsics puts references for !Ref NAME, !GetAtt NAME.ATTRIBUTE and the long forms {Ref: NAME} and
// {Fn::GetAtt: [NAME, ATTRIBUTE]}, and refuses every other function.
func replaceIntrinsics(root *yaml.Node) error {
	kinds := kindsOf(root)
	var errs []error
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		function, argument := intrinsic(n)
		if function == "" {
			for _, child := range n.Content {
				walk(child)
			}
			return
		}
		ref, err := evaluate(function, argument, kinds)
		if err != nil {
			errs = append(errs, &yamlstrict.Error{Line: n.Line, Reason: err.Error()})
			return
		}
		*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: ref.String(), Line: n.Line, Column: n.Column}
	}
	walk(root)
	return errors.Join(errs...)
}

// intrinsic says which function a node calls, in CloudFormation's short or long form; "" if none.
func intrinsic(n *yaml.Node) (function string, argument *yaml.Node) {
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		return strings.TrimPrefix(n.Tag, "!"), n
	}
	if n.Kind == yaml.MappingNode && len(n.Content) == 2 {
		if key := n.Content[0].Value; key == "Ref" {
			return key, n.Content[1]
		} else if name, ok := strings.CutPrefix(key, "Fn::"); ok {
			return name, n.Content[1]
		}
	}
	return "", nil
}

func evaluate(function string, argument *yaml.Node, kinds map[string]string) (reference, error) {
	var words []string
	switch argument.Kind {
	case yaml.ScalarNode:
		words = []string{argument.Value}
		if function == "GetAtt" {
			words = strings.SplitN(argument.Value, ".", 2)
		}
	case yaml.SequenceNode:
		for _, c := range argument.Content {
			words = append(words, c.Value)
		}
	}
	switch {
	case function == "Ref" && len(words) == 1:
		return reference{words[0], refAttribute(kinds[words[0]])}, nil
	case function == "GetAtt" && len(words) == 2:
		return reference{words[0], words[1]}, nil
	case function == "Ref" || function == "GetAtt":
		return reference{}, fmt.Errorf("%s needs %s", function, map[string]string{"Ref": "a name", "GetAtt": "NAME.ATTRIBUTE"}[function])
	}
	return reference{}, fmt.Errorf("the function %s is not supported, only Ref and GetAtt are", function)
}

// refAttribute is what Ref gives: the primary identifier of the resource type in CloudFormation, which is the ARN for a
// server and the id for a workflow.
func refAttribute(kind string) string {
	switch kind {
	case refOfServer:
		return "Arn"
	case "Servers":
		return "ServerId"
	}
	return "WorkflowId"
}

// kindsOf maps the names of a file's resources to their types: CloudFormation's, or Servers and Workflows.
func kindsOf(root *yaml.Node) map[string]string {
	kinds := map[string]string{}
	each(root, func(section string, resources *yaml.Node) {
		each(resources, func(name string, resource *yaml.Node) {
			kinds[name] = section
			if section != "Resources" {
				return
			}
			each(resource, func(key string, value *yaml.Node) {
				if key == "Type" {
					kinds[name] = value.Value
				}
			})
		})
	})
	return kinds
}

func each(n *yaml.Node, f func(key string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		f(n.Content[i].Value, n.Content[i+1])
	}
}

// strings calls f for the place of every string in a tree of pointers, structs and slices.
func stringsIn(v reflect.Value, f func(place reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			stringsIn(v.Elem(), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				stringsIn(v.Field(i), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			stringsIn(v.Index(i), f)
		}
	case reflect.String:
		f(v)
	}
}

// references lists what a resource refers to.
func references(props any) []reference {
	var found []reference
	stringsIn(reflect.ValueOf(props), func(place reflect.Value) {
		if r, ok := parseReference(place.String()); ok {
			found = append(found, r)
		}
	})
	return found
}

// resolve puts ids in the places of references, as far as they are known.
func resolve(props any, known map[reference]string) {
	stringsIn(reflect.ValueOf(props), func(place reflect.Value) {
		if r, ok := parseReference(place.String()); ok && known[r] != "" {
			place.SetString(known[r])
		}
	})
}

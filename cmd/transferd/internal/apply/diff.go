package apply

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// difference is a member that is not as the file has it.
type difference struct {
	member     string // ProtocolDetails.SetStatOption
	have, want any    // nil: the member is not there
}

// top is the member of the request that the difference is in.
func (d difference) top() string {
	if end := strings.IndexAny(d.member, ".["); end >= 0 {
		return d.member[:end]
	}
	return d.member
}

func (d difference) String() string {
	switch {
	case d.member == "HostKey":
		return "HostKey: (not shown)"
	case d.have == nil:
		return d.member + ": " + show(d.want)
	case d.want == nil:
		return d.member + ": " + show(d.have) + " goes"
	}
	return d.member + ": " + show(d.have) + " → " + show(d.want)
}

// differ compares the members that the file has (want) with those of the API's answer (have). Members that the file does
// not have do not count, and neither do those in ignore.
func differ(want, have any, ignore ...string) []difference {
	w, _ := tree(reflect.ValueOf(want)).(map[string]any)
	h, _ := tree(reflect.ValueOf(have)).(map[string]any)
	for _, name := range ignore {
		delete(w, name)
	}
	return compare("", w, h, false)
}

// compare finds the members that differ. A list is replaced whole, so in its items (exact) what the file leaves out must
// not be there.
func compare(path string, want, have any, exact bool) []difference {
	if exact && same(want, have) {
		return nil
	}
	if w, ok := want.(map[string]any); ok {
		h, _ := have.(map[string]any)
		names := slices.Collect(maps.Keys(w))
		if exact {
			names = slices.AppendSeq(names, maps.Keys(h))
		}
		slices.Sort(names)
		var found []difference
		for _, name := range slices.Compact(names) {
			found = append(found, compare(join(path, name), w[name], h[name], exact)...)
		}
		return found
	}
	w, ok := want.([]any)
	h, both := have.([]any)
	if ok && both && len(w) == len(h) {
		var found []difference
		for i := range w {
			found = append(found, compare(fmt.Sprintf("%s[%d]", path, i), w[i], h[i], true)...)
		}
		return found
	}
	if same(want, have) {
		return nil
	}
	return []difference{{path, have, want}}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// same compares values as the API means them: nothing, "" and an empty list are one, and so are a default and its absence
// in an item of a list.
func same(a, b any) bool { return reflect.DeepEqual(prune(a), prune(b)) }

func prune(v any) any {
	switch v := v.(type) {
	case string:
		if v == "" {
			return nil
		}
	case []any:
		var list []any
		for _, item := range v {
			list = append(list, prune(item))
		}
		if list == nil {
			return nil
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for name, member := range v {
			if p := prune(member); p != nil && p != defaults()[name] {
				object[name] = p
			}
		}
		return object
	}
	return v
}

// defaults are what members of list items are when nobody says so.
func defaults() map[string]any {
	return map[string]any{"OverwriteExisting": "FALSE", "SourceFileLocation": "${previous.file}", "Type": "DIRECTORY"}
}

// tree makes plain values of an SDK's struct: maps, lists, strings, numbers and truths. What is not set is left out.
func tree(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if v.Elem().Kind() == reflect.String {
			return v.Elem().String() // "" was said on purpose
		}
		return tree(v.Elem())
	case reflect.Struct:
		object := map[string]any{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				if member := tree(v.Field(i)); member != nil {
					object[f.Name] = member
				}
			}
		}
		return object
	case reflect.Slice:
		return list(v)
	case reflect.String:
		if v.String() == "" {
			return nil // an enum that is not set
		}
		return v.String()
	case reflect.Int, reflect.Int32, reflect.Int64:
		return v.Int()
	case reflect.Bool:
		return v.Bool()
	}
	return nil
}

func list(v reflect.Value) any {
	if v.IsNil() {
		return nil
	}
	items := make([]any, v.Len())
	for i := range items {
		items[i] = tree(v.Index(i))
	}
	if protocols, ok := v.Interface().([]types.Protocol); ok { // a set: the order says nothing
		for i, p := range slices.Sorted(slices.Values(protocols)) {
			items[i] = string(p)
		}
	}
	return items
}

// show prints a value in one short line.
func show(v any) string {
	if s, ok := v.(string); ok {
		if r, ok := parseReference(s); ok {
			return "(" + r.name + "." + r.attribute + ")"
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	s := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u0000`, "").Replace(string(b))
	if r := []rune(s); len(r) > 120 {
		return string(r[:117]) + "..."
	}
	return s
}

// copyMembers copies the members that both requests have, by name, and only those that are named, if any are.
func copyMembers(into, from any, only ...string) {
	dst, src := reflect.ValueOf(into).Elem(), reflect.ValueOf(from).Elem()
	for i := range src.NumField() {
		f := src.Type().Field(i)
		if !f.IsExported() || len(only) > 0 && !slices.Contains(only, f.Name) {
			continue
		}
		if place := dst.FieldByName(f.Name); place.IsValid() && place.Type() == f.Type {
			place.Set(src.Field(i))
		}
	}
}

// hasMember says whether a request knows a member.
func hasMember(request any, name string) bool {
	_, ok := reflect.TypeOf(request).FieldByName(name)
	return ok
}

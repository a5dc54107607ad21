package api_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/transferd/transferd/server"
)

// object is a JSON object, of a request or of an answer.
type object = map[string]any

// seeds are the runs that go test makes; go test -fuzz makes more.
func seeds(f *testing.F, n uint64) {
	for seed := range n {
		f.Add(seed)
	}
}

// exchange is a control plane that a fuzz target speaks to in raw requests.
type exchange struct {
	*world
	t *testing.T
	g *generator
}

// do makes a request that must succeed and returns the answer, which the model allows.
func (x exchange) do(operation string, in object) object {
	x.t.Helper()
	a := x.call(x.t, operation, string(encode(in)))
	if a.Status != 200 {
		x.t.Fatalf("%s %s\nis refused: %s", operation, encode(in), a.Body)
	}
	judge{t: x.t, model: x.g.model}.check(operation, []byte(a.Body))
	if a.Body == "" {
		return nil
	}
	return decode[object]([]byte(a.Body))
}

// described reads a thing without what the service itself makes of it.
func (x exchange) described(operation, member string, in object, own ...string) object {
	x.t.Helper()
	thing := x.do(operation, in)[member].(object)
	for _, name := range own {
		delete(thing, name)
	}
	return thing
}

// spoil sends a request with one value that the model does not allow.
func (x exchange) spoil(operation string, in object) {
	x.t.Helper()
	bad, ok := x.g.spoiled(operation+"Request", in)
	if !ok {
		return
	}
	x.call(x.t, operation, string(encode(bad))).refused(x.t, 400, "ValidationException", "failed to satisfy constraint")
}

// same compares what is with what was sent.
func (x exchange) same(what string, got, want object) {
	x.t.Helper()
	want = bare(decode[object](encode(want))).(object) // numbers and lists as JSON has them
	if !reflect.DeepEqual(got, want) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if !reflect.DeepEqual(got[name], want[name]) {
				x.t.Errorf("%s: %s is %s, want %s", what, name, encode(got[name]), encode(want[name]))
			}
		}
		x.t.Fatalf("%s: got  %s\nwant %s", what, encode(got), encode(want))
	}
}

// bare is a value without what is as good as absent: null, empty lists, objects and texts. Those of pairs mean something.
func bare(value any) any {
	switch v := value.(type) {
	case object:
		out := object{}
		for name, inner := range v {
			inner = bare(inner)
			if pair := name == "Key" || name == "Value" || name == "Entry" || name == "Target"; pair || !empty(inner) {
				out[name] = inner
			}
		}
		return out
	case []any:
		out := []any{}
		for _, inner := range v {
			out = append(out, bare(inner))
		}
		return out
	}
	return value
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case object:
		return len(v) == 0
	}
	return false
}

// overlay puts the members that were sent over those that were there; of the named ones, member by member.
func overlay(old, in object, nested ...string) object {
	out := maps.Clone(old)
	for name, v := range in {
		switch inner, ok := v.(object); {
		case ok && slices.Contains(nested, name):
			had, _ := out[name].(object)
			if had == nil {
				had = object{}
			}
			out[name] = overlay(had, inner)
		case ok && len(inner) == 0: // an empty object says nothing
		default:
			out[name] = v
		}
	}
	return out
}

// FuzzServerRoundTrip: whatever a server is given that the rules allow, it shows; what was not sent stays; and what the
// model does not allow changes nothing.
func FuzzServerRoundTrip(f *testing.F) {
	w, m := newWorld(f), loadModel(f)
	flows := []string{w.newWorkflow(f), w.newWorkflow(f)}
	seeds(f, 60)
	f.Fuzz(func(t *testing.T, seed uint64) {
		x := exchange{w, t, newGenerator(t, m, seed, flows...)}
		in := x.g.server(x.g.structure("CreateServerRequest"), nil)
		x.spoil("CreateServer", in)
		id := x.do("CreateServer", in)["ServerId"].(string)
		describe := func() object {
			return x.described("DescribeServer", "Server", object{"ServerId": id}, "Arn", "ServerId", "State", "UserCount", "HostKeyFingerprint")
		}
		was := serverAfter(nil, in)
		x.same("created", describe(), was)
		for range 4 {
			w.state(t, id, server.Offline)
			in := x.g.server(x.g.structure("UpdateServerRequest"), was)
			in["ServerId"] = id
			x.spoil("UpdateServer", in)
			x.same("after a refused update", describe(), was)
			x.do("UpdateServer", in)
			was = serverAfter(was, in)
			x.same("updated", describe(), was)
		}
		x.do("DeleteServer", object{"ServerId": id})
	})
}

// serverAfter is what DescribeServer shows after a request, nil before the first.
func serverAfter(was, in object) object {
	if was == nil {
		was = object{
			"Domain": "S3", "EndpointType": "PUBLIC", "IdentityProviderType": "SERVICE_MANAGED", "Protocols": []any{"SFTP"},
			"SecurityPolicyName": "TransferSecurityPolicy-2024-01", "IpAddressType": "IPV4",
			"ProtocolDetails": object{"PassiveIp": "AUTO", "TlsSessionResumptionMode": "ENFORCED", "SetStatOption": "DEFAULT"},
		}
		if in["Domain"] != "EFS" {
			was["S3StorageOptions"] = object{"DirectoryListingOptimization": "DISABLED"}
		}
	}
	was = maps.Clone(was)
	if in["EndpointType"] != was["EndpointType"] {
		was["EndpointDetails"] = nil
		was["ProtocolDetails"] = without(was["ProtocolDetails"].(object), "SftpPorts")
	}
	if in["IdentityProviderType"] != was["IdentityProviderType"] {
		was["IdentityProviderDetails"] = nil
	}
	in = without(without(in, "HostKey"), "ServerId")
	return bare(overlay(was, in, "EndpointDetails", "IdentityProviderDetails", "ProtocolDetails", "WorkflowDetails")).(object)
}

// server makes the members of a request go together, which change a server that was so, or make one.
func (g *generator) server(in, was object) object {
	endpoint, provider := pick(g.r, "PUBLIC", "VPC", "VPC_ENDPOINT"), pick(g.r, "SERVICE_MANAGED", "API_GATEWAY", "AWS_LAMBDA", "AWS_DIRECTORY_SERVICE")
	protocols := []string{"SFTP"}
	if endpoint == "VPC" && provider != "SERVICE_MANAGED" {
		protocols = some(g.r, "SFTP", "FTP", "FTPS")
	}
	in["EndpointType"], in["IdentityProviderType"], in["Protocols"] = endpoint, provider, protocols
	if slices.Contains(protocols, "FTPS") {
		in["Certificate"] = g.value("Certificate")
	}
	if d, ok := in["ProtocolDetails"].(object); ok && endpoint != "PUBLIC" {
		delete(d, "SftpPorts")
	}
	in["IdentityProviderDetails"] = g.provider(provider, slices.Contains(protocols, "SFTP"))
	address := in["IpAddressType"]
	if address == nil {
		address = was["IpAddressType"]
	}
	in["EndpointDetails"] = g.endpoint(endpoint, was, !slices.Contains(protocols, "FTP") && address == "IPV4")
	return in
}

// provider makes the details that a type of provider needs.
func (g *generator) provider(provider string, sftp bool) object {
	d := object{}
	switch provider {
	case "API_GATEWAY":
		d["Url"] = g.value("Url")
		if g.coin() {
			d["InvocationRole"] = g.value("Role")
		}
	case "AWS_LAMBDA":
		d["Function"] = g.value("Function")
	case "AWS_DIRECTORY_SERVICE":
		d["DirectoryId"] = g.value("DirectoryId")
	}
	if sftp && (provider == "API_GATEWAY" || provider == "AWS_LAMBDA") && g.coin() {
		d["SftpAuthenticationMethods"] = g.value("SftpAuthenticationMethods")
	}
	return d
}

// endpoint makes the details that a type of endpoint takes; addresses says whether this server may have some.
func (g *generator) endpoint(endpoint string, was object, addresses bool) object {
	switch endpoint {
	case "PUBLIC":
		return object{}
	case "VPC_ENDPOINT":
		return object{"VpcEndpointId": g.value("VpcEndpointId")}
	}
	d := g.structure("EndpointDetails")
	delete(d, "VpcEndpointId")
	delete(d, "AddressAllocationIds")
	if was == nil || was["EndpointType"] != "VPC" {
		return d
	}
	delete(d, "SecurityGroupIds") // those of an endpoint that stays do not change
	had, _ := was["EndpointDetails"].(object)
	if had["AddressAllocationIds"] != nil {
		delete(d, "SubnetIds")
		d["AddressAllocationIds"] = []any{}
	}
	if addresses && g.coin() {
		d["AddressAllocationIds"] = some(g.r, "eipalloc-1", "eipalloc-2", "eipalloc-3")
	}
	return d
}

// FuzzUserRoundTrip does the same for users on S3 and on EFS, and for accesses.
func FuzzUserRoundTrip(f *testing.F) {
	w, m := newWorld(f), loadModel(f)
	s3, efs, groups := w.newServer(f), w.server(f, `"Domain":"EFS"`), w.server(f, directory)
	seeds(f, 60)
	f.Fuzz(func(t *testing.T, seed uint64) {
		x := exchange{w, t, newGenerator(t, m, seed)}
		noun, id, own := "User", pick(x.g.r, s3, efs), []string{"Arn", "UserName", "SshPublicKeys"}
		key := object{"ServerId": id, "UserName": x.g.value("UserName")}
		if x.g.r.IntN(3) == 0 {
			noun, id, own = "Access", groups, []string{"ExternalId"}
			key = object{"ServerId": id, "ExternalId": x.g.value("ExternalId")}
		}
		request := func(operation string, was object) object {
			in := x.g.home(x.g.structure(operation+noun+"Request"), was, id == efs)
			maps.Copy(in, key)
			return in
		}
		after := func(was, in object) object {
			if t := in["HomeDirectoryType"]; t != was["HomeDirectoryType"] {
				was = without(without(was, "HomeDirectory"), "HomeDirectoryMappings")
			}
			in = maps.Clone(in)
			for name := range key {
				delete(in, name)
			}
			delete(in, "SshPublicKeyBody")
			return bare(overlay(was, in)).(object)
		}
		in := request("Create", object{})
		x.spoil("Create"+noun, in)
		x.do("Create"+noun, in)
		was := after(object{}, in)
		x.same("created", x.described("Describe"+noun, noun, key, own...), was)
		for range 4 {
			in := request("Update", was)
			x.spoil("Update"+noun, in)
			x.same("after a refused update", x.described("Describe"+noun, noun, key, own...), was)
			x.do("Update"+noun, in)
			was = after(was, in)
			x.same("updated", x.described("Describe"+noun, noun, key, own...), was)
		}
		x.do("Delete"+noun, key)
	})
}

// home makes the members of a request go together, which change a user that was so, or make one.
func (g *generator) home(in, was object, efs bool) object {
	in["HomeDirectoryType"] = pick(g.r, "PATH", "LOGICAL")
	if in["HomeDirectoryType"] == "PATH" {
		delete(in, "HomeDirectoryMappings")
	} else {
		mappings := g.mappings()
		in["HomeDirectoryMappings"] = mappings
		in["HomeDirectory"] = pick(g.r, "", "/", pick(g.r, mappings...).(object)["Entry"].(string))
	}
	if efs {
		delete(in, "Policy")
		if was["PosixProfile"] == nil {
			in["PosixProfile"] = g.value("PosixProfile")
		}
	}
	return in
}

// FuzzWorkflowRoundTrip does the same for workflows, which never change.
func FuzzWorkflowRoundTrip(f *testing.F) {
	w, m := newWorld(f), loadModel(f)
	seeds(f, 40)
	f.Fuzz(func(t *testing.T, seed uint64) {
		x := exchange{w, t, newGenerator(t, m, seed)}
		x.g.special["WorkflowSteps"] = x.g.steps
		x.g.special["S3Key"] = func() any {
			return pick(x.g.r, "to/${Transfer:UserName}/", "${transfer:UploadDate}-ä <&>", "a\n\t字")
		}
		in := x.g.structure("CreateWorkflowRequest")
		_, before := w.count()
		x.spoil("CreateWorkflow", in)
		if _, n := w.count(); n != before {
			t.Fatalf("a refused request left %d workflows", n-before)
		}
		id := x.do("CreateWorkflow", in)["WorkflowId"]
		x.same("created", x.described("DescribeWorkflow", "Workflow", object{"WorkflowId": id}, "Arn", "WorkflowId"), in)
		x.do("DeleteWorkflow", object{"WorkflowId": id})
	})
}

// steps are of the types that are done.
func (g *generator) steps() any {
	var list []any
	for range g.between(1, 8) {
		switch pick(g.r, "COPY", "TAG", "DELETE") {
		case "COPY":
			d := g.structure("CopyStepDetails")
			d["DestinationFileLocation"] = object{"S3FileLocation": object{"Bucket": g.value("S3Bucket"), "Key": g.value("S3Key")}}
			list = append(list, object{"Type": "COPY", "CopyStepDetails": d})
		case "TAG":
			list = append(list, object{"Type": "TAG", "TagStepDetails": overlay(g.structure("TagStepDetails"), object{"Tags": g.tags()})})
		case "DELETE":
			list = append(list, object{"Type": "DELETE", "DeleteStepDetails": overlay(g.structure("DeleteStepDetails"), object{"Name": "the-last_1"})})
		}
	}
	return list
}

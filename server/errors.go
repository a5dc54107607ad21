package server

// NotFoundError says that the catalogue has no such thing. Resource types are spelled as the API spells them: Server,
// User, Access, SshPublicKey, HostKey, SecurityPolicy, Workflow, Execution.
type NotFoundError struct{ ResourceType, Resource string }

func (e *NotFoundError) Error() string { return "Unknown " + e.ResourceType + " " + e.Resource }

// ExistsError says that the catalogue has it already.
type ExistsError struct{ ResourceType, Resource string }

func (e *ExistsError) Error() string { return e.ResourceType + " " + e.Resource + " already exists" }

// InUseError says that a thing cannot go while another refers to it.
type InUseError struct{ ResourceType, Resource, By string }

func (e *InUseError) Error() string { return e.ResourceType + " is still in use by server " + e.By }

// LastKeyError says that a host key cannot go because its server has no other.
type LastKeyError struct {
	Server  ID
	HostKey string
}

func (e *LastKeyError) Error() string {
	return "Host key " + e.HostKey + " is the last one of server " + string(e.Server) + ": import another one first"
}

// Page asks for a part of a list: at most Limit items whose keys sort after After.
type Page struct {
	After string
	Limit int
}

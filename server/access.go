package server

// Access is what the members of a group of a directory get, as DescribeAccess shows it (shape DescribedAccess). It
// belongs to one server, whose identity provider is a directory.
type Access struct {
	ExternalId            string                  // the group's security identifier, S-1-…
	HomeDirectory         string                  `json:",omitempty"`
	HomeDirectoryMappings []HomeDirectoryMapEntry `json:",omitempty"`
	HomeDirectoryType     string                  `json:",omitempty"` // PATH or LOGICAL
	Policy                string                  `json:",omitempty"`
	PosixProfile          *PosixProfile           `json:",omitempty"`
	Role                  string
}

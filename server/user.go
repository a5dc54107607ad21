package server

// User is a service-managed user as DescribeUser shows it (shape DescribedUser). It belongs to one server.
type User struct {
	Arn                   string
	HomeDirectory         string                  `json:",omitempty"`
	HomeDirectoryMappings []HomeDirectoryMapEntry `json:",omitempty"`
	HomeDirectoryType     string                  `json:",omitempty"` // PATH or LOGICAL
	Policy                string                  `json:",omitempty"`
	PosixProfile          *PosixProfile           `json:",omitempty"`
	Role                  string
	SshPublicKeys         []SshPublicKey
	Tags                  []Tag `json:",omitempty"`
	UserName              string
}

// HomeDirectoryMapEntry maps what a client sees (Entry) to where it lies (Target).
type HomeDirectoryMapEntry struct {
	Entry  string
	Target string
	Type   string `json:",omitempty"` // FILE or DIRECTORY
}

// PosixProfile is the identity on an EFS.
type PosixProfile struct {
	Uid           int64
	Gid           int64
	SecondaryGids []int64 `json:",omitempty"`
}

// SshPublicKey is one public key of a user, in authorized_keys form.
type SshPublicKey struct {
	DateImported     Time
	SshPublicKeyBody string
	SshPublicKeyId   string // key-[0-9a-f]{17}
}

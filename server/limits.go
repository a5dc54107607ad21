package server

import "fmt"

// Limits are the quotas of an installation. AWS has them (page "AWS Transfer Family endpoints and quotas"); here each
// is off while it is 0. Whoever creates a thing checks its limit in the same transaction.
type Limits struct {
	Servers           int // servers of the installation; AWS: 50
	UsersPerServer    int // service-managed users of a server; AWS: 10,000
	KeysPerUser       int // SSH public keys of a user; AWS: 50
	MappingsPerUser   int // entries of a user's HomeDirectoryMappings; AWS: 2,000
	Workflows         int // workflows of the installation; AWS: 10
	AccessesPerServer int // groups of a directory on a server; AWS: 100
}

// QuotaError says that a limit does not allow one thing more. Resource types are spelled as in NotFoundError.
type QuotaError struct {
	ResourceType string
	Limit        int
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the service quota of %d is reached for resource type %s", e.Limit, e.ResourceType)
}

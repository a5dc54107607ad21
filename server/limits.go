package server

// Limits are the quotas of this installation (AWS: "AWS Transfer Family endpoints and quotas"); 0 is no limit. Whoever
// creates a thing checks its limit in the same transaction.
type Limits struct {
	Servers           int
	UsersPerServer    int
	KeysPerUser       int // public keys in one user; checked by the control plane
	Workflows         int
	AccessesPerServer int
}

package server

// Realm is where ARNs are made: the region and account that this installation calls itself.
type Realm struct {
	Region  string
	Account string // 12 digits
}

func (r Realm) arn(resource string) string {
	return "arn:aws:transfer:" + r.Region + ":" + r.Account + ":" + resource
}

// ServerARN is the ARN of a server.
func (r Realm) ServerARN(id ID) string { return r.arn("server/" + string(id)) }

// UserARN is the ARN of a user of a server.
func (r Realm) UserARN(id ID, name string) string { return r.arn("user/" + string(id) + "/" + name) }

// WorkflowARN is the ARN of a workflow.
func (r Realm) WorkflowARN(id string) string { return r.arn("workflow/" + id) }

// HostKeyARN is the ARN of a server's host key.
func (r Realm) HostKeyARN(id ID, key string) string {
	return r.arn("host-key/" + string(id) + "/" + key)
}

package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api/internal/awsjson"
	"github.com/transferd/transferd/server/api/internal/model"
)

// invalid refuses a request that satisfies the model's constraints and breaks a rule of the service.
func invalid(format string, args ...any) error {
	return awsjson.Errorf("InvalidRequestException", format, args...)
}

// unsupported refuses what the API knows and this service does not do yet. what names the member and its value.
func unsupported(what string) error { return invalid("%s is not supported yet", what) }

// toWire turns any error into what the caller is told, in the exceptions and statuses of the API's reference. It reports
// whether the error is internal: then the caller gets a neutral text, and the error belongs into the log. No error is
// no answer.
func toWire(err error) (answer *awsjson.Error, internal bool) {
	if err == nil {
		return nil, false
	}
	if e, ok := errors.AsType[*awsjson.Error](err); ok {
		return e, false
	}
	if e, ok := errors.AsType[*model.SyntaxError](err); ok {
		return awsjson.Errorf("SerializationException", "%s", e), false
	}
	if e, ok := errors.AsType[*model.ConstraintError](err); ok {
		return awsjson.Errorf("ValidationException", "%s", e), false
	}
	if e, ok := errors.AsType[*server.NotFoundError](err); ok {
		answer := awsjson.Errorf("ResourceNotFoundException", "Unknown %s %s", spoken(e.ResourceType), e.Resource)
		answer.Resource, answer.ResourceType = e.Resource, e.ResourceType
		return answer, false
	}
	if e, ok := errors.AsType[*server.ExistsError](err); ok {
		answer := awsjson.Errorf("ResourceExistsException", "%s", e)
		answer.Resource, answer.ResourceType = e.Resource, e.ResourceType
		return answer, false
	}
	if e, ok := errors.AsType[*server.InUseError](err); ok {
		return awsjson.Errorf("InvalidRequestException", "%s", e), false
	}
	if e, ok := errors.AsType[*server.LastKeyError](err); ok {
		return awsjson.Errorf("InvalidRequestException", "%s", e), false
	}
	if e, ok := errors.AsType[*server.QuotaError](err); ok {
		// The service's model has no exception for quotas.
		return awsjson.Errorf("InvalidRequestException", "You have reached the service quota of %d %s", e.Limit, counted(e.ResourceType)), false
	}
	return &awsjson.Error{
		Type:    "InternalServiceError",
		Status:  http.StatusInternalServerError,
		Message: "The service could not do this because of an internal error",
	}, true
}

// spoken is a resource type inside a sentence; the service says "Unknown server".
func spoken(resourceType string) string {
	switch resourceType {
	case "Server":
		return "server"
	case "User":
		return "user"
	case "SshPublicKey":
		return "SSH public key"
	case "HostKey":
		return "host key"
	case "SecurityPolicy":
		return "security policy"
	case "Access", "Workflow", "Execution":
		return strings.ToLower(resourceType)
	}
	return resourceType
}

// counted names many of a type of resource, and whose.
func counted(resourceType string) string {
	switch resourceType {
	case "Server":
		return "servers"
	case "User":
		return "users on this server"
	case "SshPublicKey":
		return "SSH public keys of this user"
	case "HomeDirectoryMapEntry":
		return "entries in HomeDirectoryMappings of this user"
	case "Workflow":
		return "workflows"
	case "Access":
		return "accesses on this server"
	}
	return "resources of type " + resourceType
}

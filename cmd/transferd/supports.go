package main

import "github.com/transferd/transferd/server"

// unsupported is the reason; its text begins with a name of the API.
type unsupported string

func (u unsupported) Error() string { return string(u) + " is not supported yet" }

// supports says what a server asks for that this build cannot serve yet. The control plane keeps all that AWS knows; a
// server that asks for more than there is does not start, and its tag says why, rather than serve something else.
func supports(s server.Server) error {
	for _, p := range s.Protocols {
		if p == "AS2" {
			return unsupported("Protocol " + p)
		}
	}
	if t := s.IdentityProviderType; t != "" && t != "SERVICE_MANAGED" && t != "API_GATEWAY" {
		return unsupported("IdentityProviderType " + t)
	}
	d := s.ProtocolDetails
	if d == nil {
		return nil
	}
	for _, p := range d.SftpPorts {
		if p.CommunicationMode == "CLIENT_TALK_FIRST" {
			return unsupported("SftpPorts with CommunicationMode " + p.CommunicationMode)
		}
	}
	return nil
}

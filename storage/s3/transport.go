package s3

import (
	"net"
	"net/http"
	"time"
)

// newTransport pools connections for hundreds of uploads: with the default of few idle connections a host, small files
// open a connection each. Bodies are incompressible or compressed already, and HTTP/2 would put all of them on one
// connection. A small file and its header fit into the write buffer; larger bodies pass by it.
func (cfg Config) newTransport() (*http.Transport, error) {
	proxy, trusted, err := cfg.network()
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		Proxy:                 proxy,
		TLSClientConfig:       trusted,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		WriteBufferSize:       16 * kib,
		ReadBufferSize:        64 * kib,
		Protocols:             http1(),
	}, nil
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

package integration_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// Connections that are not TCP below TLS stay as they are.
func TestUnixSocket(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
https://localhost:{$PORT} {
	bind unix/{$DIR}/site
	ktls
	root {$ROOT}
	file_server
}`)
	before := c.metrics(t)
	client := c.client(t, nil)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.dir+"/site")
	}
	const times = 2
	for range times {
		wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
		client.CloseIdleConnections()
	}
	c.expect(t, before, counts{"connections:not_tcp": times, "responses:not_offloadable": times})
	c.expectReason(t, "not_tcp", times)
	c.expectReason(t, "not_offloadable", times)
	fault(t, "Server life", "Unix socket", "bind unix/", "whole, not_tcp")
}

func TestProxyProtocol(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
{
	servers {
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.0/8
			}
			tls
			ktls
		}
	}
}
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	log
	file_server
}`)
	before := c.metrics(t)
	client := c.client(t, nil)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+c.port)
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n")
		return conn, err
	}
	wantBody(t, do(t, client, http.MethodGet, c.url("/f")), http.StatusOK, f.digest)
	client.CloseIdleConnections()
	c.expect(t, before, counts{"connections:not_tcp": 1, "responses:not_offloadable": 1})
	c.expectReason(t, "not_tcp", 1)
	eventually(t, "the request is in the access log", func() error {
		for _, entry := range c.entries("handled request") {
			request, _ := entry["request"].(map[string]any)
			if request["remote_ip"] == "192.0.2.7" {
				return nil
			}
		}
		return fmt.Errorf("not with the address that the proxy told")
	})
	fault(t, "Server life", "PROXY protocol", "proxy_protocol before tls and ktls", "whole, not_tcp, with the client's address")
}

// A site with an address of either kind.
func TestMixedSite(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
http://localhost:{$PORT2}, https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`)
	before := c.metrics(t)
	wantBody(t, c.get(t, "/f"), http.StatusOK, f.digest)
	c.expect(t, before, sentByKernel(f.size))

	before = c.metrics(t)
	client := c.client(t, nil)
	wantBody(t, do(t, client, http.MethodGet, "http://localhost:"+c.getenv("PORT2")+"/f"), http.StatusOK, f.digest)
	client.CloseIdleConnections()
	c.expect(t, before, counts{}) // it is none of this module's business
}

// Only one of the sites on a port has the directive: the others' connections
// could be offloaded, but nobody asks for it.
func TestSitesOnOnePort(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, `
(files) {
	root {$ROOT}
	file_server
}
https://one.localhost:{$PORT} {
	ktls
	import files
}
https://two.localhost:{$PORT} {
	ktls
	import files
}
https://three.localhost:{$PORT} {
	import files
}`)
	for _, test := range []struct {
		name string
		want counts
	}{
		{"one", sentByKernel(f.size)}, {"two", sentByKernel(f.size)}, {"three", copied()},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			client := c.client(t, nil)
			resp := do(t, client, http.MethodGet, "https://"+test.name+".localhost:"+c.port+"/f")
			client.CloseIdleConnections()
			wantBody(t, resp, http.StatusOK, f.digest)
			c.expect(t, before, test.want)
		})
	}
}

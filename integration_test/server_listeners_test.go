package integration_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Connections that are not TCP below TLS stay as they are.
func TestUnixSocket(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
https://localhost:{$PORT} {
	bind unix/{$DIR}/site
	ktls
	root {$ROOT}
	file_server
}`)
	before := c.Metrics(t)
	client := harness.OverAddress(c.Client(t, nil), "unix", c.Dir+"/site")
	const times = 2
	for range times {
		harness.WantFile(t, client, c.URL("/f"), f)
		client.CloseIdleConnections()
	}
	c.Expect(t, before, harness.Counts{"connections:not_tcp": times, "responses:not_offloadable": times})
	c.Log.ExpectReason(t, "not_tcp", times)
	c.Log.ExpectReason(t, "not_offloadable", times)
	results.Fault(t, "Server life", "Unix socket", "bind unix/", "whole, not_tcp")
}

// dialProxied connects as a proxy that tells a client's address.
func dialProxied(site harness.Site) (net.Conn, error) {
	conn, err := site.TryTCP()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n")
	return conn, err
}

func TestProxyProtocol(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, `
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
	before := c.Metrics(t)
	client := harness.Over(c.Client(t, nil), func() (net.Conn, error) { return dialProxied(c.Site) })
	harness.WantFile(t, client, c.URL("/f"), f)
	client.CloseIdleConnections()
	c.Expect(t, before, harness.Counts{"connections:not_tcp": 1, "responses:not_offloadable": 1})
	c.Log.ExpectReason(t, "not_tcp", 1)
	if a := c.Log.AwaitAccesses(t, 1)[0]; a.Request.RemoteIP != "192.0.2.7" {
		t.Errorf("the access log has the address %s, not the one that the proxy told", a.Request.RemoteIP)
	}
	results.Fault(t, "Server life", "PROXY protocol", "proxy_protocol before tls and ktls", "whole, not_tcp, with the client's address")
}

// dialMultipath connects by Multipath TCP or without. It returns an error that is
// errors.ErrUnsupported if that can't be chosen.
func dialMultipath(site harness.Site, multipath bool) (net.Conn, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(multipath)
	conn, err := dialer.Dial("tcp", site.Address())
	if err != nil {
		return nil, err
	}
	if used, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || used != multipath {
		_ = conn.Close()
		return nil, fmt.Errorf("Multipath TCP is used: %v, %w", used, errors.Join(err, errors.ErrUnsupported))
	}
	return conn, nil
}

// A client that speaks Multipath TCP is served as without the module; others are
// not affected by a listener that does.
func TestMultipathTCP(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Large, harness.FileSite)
	for _, multipath := range []bool{false, true} {
		before := c.Metrics(t)
		client := harness.Over(c.Client(t, nil), func() (net.Conn, error) { return dialMultipath(c.Site, multipath) })
		resp, err := harness.Try(t, client, http.MethodGet, c.URL("/f"))
		if multipath && errors.Is(err, errors.ErrUnsupported) {
			testutil.Missing(t, err.Error())
		}
		testutil.Must(t, err)
		harness.WantBody(t, resp, http.StatusOK, f.Digest)
		client.CloseIdleConnections()
		if multipath {
			c.Expect(t, before, harness.Counts{"connections:not_tcp": 1, "responses:not_tcp": 1})
			c.Log.ExpectReason(t, "not_tcp", 1)
		} else {
			c.Expect(t, before, harness.SentByKernel(f.Size))
		}
	}
	results.Fault(t, "Server life", "Client of Multipath TCP", "a client that insists on it, and one without", "whole; not_tcp, and offloaded")
}

// listenerSites has a site for each kind of listener: on addresses, and on sockets that
// Caddy inherits.
const listenerSites = `
(files) {
	ktls
	header Configuration NUMBER
	root {$ROOT}
	file_server
}
https://localhost:{$PORT} {
	bind 127.0.0.1 127.0.0.2
	import files
}
https://localhost:{$PORT2} {
	bind 127.0.0.3
	import files
}
https://localhost {
	bind fd/3 {
		protocols h1 h2
	}
	bind fdgram/4 {
		protocols h3
	}
	import files
}`

// inherit has a Caddy inherit two sockets, of TCP and UDP, as the descriptors 3 and 4.
// It returns the address of the first.
func inherit(t testing.TB, c *harness.Caddy) (address string) {
	t.Helper()
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	testutil.Must(t, err)
	for _, socket := range []interface {
		File() (*os.File, error)
		Close() error
	}{stream.(*net.TCPListener), packets.(*net.UDPConn)} {
		file, err := socket.File()
		testutil.Must(t, err)
		t.Cleanup(func() { _, _ = file.Close(), socket.Close() })
		c.Files = append(c.Files, file)
	}
	return stream.Addr().String()
}

// Every listener of a site is served, also those that another process has opened,
// and that outlive configurations.
func TestListeners(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	passed := inherit(t, c)
	c.Start(t, strings.Replace(listenerSites, "NUMBER", "0", 1))
	addresses := []string{
		c.Address(), "127.0.0.2:" + c.Port, "127.0.0.3:" + c.Getenv("PORT2"), passed,
	}
	for number, protocol := range harness.Protocols {
		if number > 0 {
			c.Reload(t, strings.Replace(listenerSites, "NUMBER", fmt.Sprint(number), 1))
		}
		for _, address := range addresses {
			before := c.Metrics(t)
			client := harness.OverAddress(c.ProtocolClient(t, protocol), "tcp", address)
			// A connection that reaches the old server is dropped, with
			// Caddy's own listener as with ours.
			var resp harness.Response
			testutil.Eventually(t, address+" is served by the new configuration", func() (err error) {
				resp, err = harness.Try(t, client, http.MethodGet, "https://localhost/f")
				return err
			})
			client.CloseIdleConnections()
			harness.WantBody(t, resp, http.StatusOK, f.Digest)
			if got := resp.Header.Get("Configuration"); got != fmt.Sprint(number) {
				t.Errorf("%s: configuration %s, want %d", address, got, number)
			}
			want := harness.SentByKernel(f.Size)
			want["connections:not_needed"] = harness.AnyNumber
			c.Expect(t, before, want)
		}
	}
	results.Fault(t, "Server life", "Several servers and listeners", "several addresses, and sockets of systemd (fd, fdgram); over reloads", "all are offloaded")
}

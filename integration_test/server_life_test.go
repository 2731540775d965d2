//go:build linux

package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lifeSites differ in the module alone.
const lifeSites = `
{
	grace_period GRACE
}
https://localhost:{$PORT} {
	ktls
	header Configuration NUMBER
	root {$ROOT}
	file_server
}
https://localhost:{$PORT2} {
	header Configuration NUMBER
	root {$ROOT}
	file_server
}`

// A transfer is a response of which little has been read.
type transfer struct {
	name   string
	module bool
	body   io.ReadCloser
	so     comparison
}

// underWay begins downloads, over each protocol with the module and without. The
// server can't finish them by itself.
func (c *caddy) underWay(t testing.TB, h1, h2 file) (all []*transfer) {
	t.Helper()
	before := c.metrics(t)
	for _, protocol := range protocolsOverTLS {
		path, f := "/h1", h1
		if protocol == "h2" {
			path, f = "/h2", h2
		}
		for _, port := range []string{"PORT", "PORT2"} {
			config := c.tlsConfig(t)
			config.NextProtos = []string{protocol}
			resp, err := c.narrowClient(t, config).Get("https://localhost:" + c.getenv(port) + path)
			must(t, err)
			t.Cleanup(func() { _ = resp.Body.Close() })
			transfer := &transfer{protocol, port == "PORT", resp.Body, comparison{f.content}}
			if !transfer.module {
				transfer.name += ", without the module"
			}
			_, err = io.CopyN(&transfer.so, resp.Body, 10_000)
			must(t, err)
			all = append(all, transfer)
		}
	}
	now := c.metrics(t)
	if n := now["responses:sendfile"] - before["responses:sendfile"]; n != 2 {
		t.Errorf("%d responses go out by sendfile, want 2", n)
	}
	if n := now["sendfile_bytes"] - before["sendfile_bytes"]; n >= h1.size {
		t.Errorf("%d bytes are sent before they are read: the test shows nothing", n)
	}
	return all
}

// finish reads the rest and fails the test if it is not as wanted: whole, or, with
// an error, the beginning.
func finish(t testing.TB, all []*transfer, whole bool) {
	t.Helper()
	for _, transfer := range all {
		_, err := io.Copy(&transfer.so, transfer.body)
		rest := len(transfer.so.rest)
		switch {
		case errors.Is(err, errDiffers):
			t.Errorf("%s: %v", transfer.name, err)
		case err == nil && rest > 0:
			t.Errorf("%s: %d bytes are missing, and it looks whole", transfer.name, rest)
		case (err == nil) != whole:
			t.Errorf("%s: %v, %d bytes are missing; want it whole: %v", transfer.name, err, rest, whole)
		}
	}
}

// wantExit waits until Caddy has ended, and its connections with it.
func (c *caddy) wantExit(t testing.TB, kernel int64) {
	t.Helper()
	select {
	case <-c.exited:
	case <-time.After(patience):
		t.Fatal("Caddy does not end")
	}
	eventually(t, "the kernel has forgotten the connections", func() error {
		if n := tlsStat(t, "TlsCurrTxSw"); n > kernel {
			return fmt.Errorf("it has %d, before %d", n, kernel)
		}
		return nil
	})
}

// What a reload, a stop and a crash do to downloads is the same with the module
// and without.
func TestLife(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	const kind = "Server life"
	c := newCaddy(t)
	h1, h2 := c.addFile(t, "h1", huge), c.addFile(t, "h2", 400_000)
	number := 0
	configuration := func(grace string) string {
		number++
		return replaced(t, lifeSites, "GRACE", grace, "NUMBER", fmt.Sprint(number))
	}
	c.start(t, configuration("0"))
	kernel := tlsStat(t, "TlsCurrTxSw")
	restart := func(grace string) {
		t.Helper()
		c.inspectLog(t)
		c.start(t, configuration(grace))
		wantBody(t, c.get(t, "/h2"), http.StatusOK, h2.digest)
	}
	logged := func(t *testing.T, message string, times int) {
		t.Helper()
		eventually(t, "the log has: "+message, func() error {
			if n := len(c.entries(message)); n < times {
				return fmt.Errorf("%d times, want %d", n, times)
			}
			return nil
		})
	}

	t.Run("reload", func(t *testing.T) {
		waiting := c.waiting(t)
		all := c.underWay(t, h1, h2)
		c.reload(t, configuration("300ms"))
		finish(t, all, true)
		waiting.wantClosed(t)
		fault(t, kind, "Reload during downloads", "HTTP/1.1 and HTTP/2, the same as without the module", "whole")
		fault(t, kind, "Reload while connections wait", "no handshake yet, no request yet, half a request, idle; HTTP/1.1 and HTTP/2",
			"closed, as without the module")
	})
	t.Run("reload, grace period over", func(t *testing.T) {
		all := c.underWay(t, h1, h2)
		c.reload(t, configuration("300ms"))
		logged(t, "server shutdown", 2)
		finish(t, all, true)
		fault(t, kind, "Reload during downloads that outlast the grace period", "HTTP/1.1 and HTTP/2, the same as without the module", "whole")
	})
	t.Run("stop, grace period over", func(t *testing.T) {
		all := c.underWay(t, h1, h2)
		must(t, c.cmd.Process.Signal(syscall.SIGTERM))
		c.wantExit(t, kernel)
		finish(t, all, false)
		restart("5m")
		fault(t, kind, "SIGTERM during downloads that outlast the grace period", "HTTP/1.1 and HTTP/2, the same as without the module",
			"clients see that they are not whole; a new process serves at once")
	})
	t.Run("caddy stop", func(t *testing.T) {
		all := c.underWay(t, h1, h2)
		self, err := os.Executable()
		must(t, err)
		stop := exec.CommandContext(t.Context(), self, "stop", "--address", "unix/"+c.socket)
		stop.Env = c.env
		// It returns when Caddy has ended.
		stopped := make(chan error, 1)
		go func() { _, err := stop.Output(); stopped <- err }()
		logged(t, "servers shutting down; grace period initiated", 1)
		finish(t, all, true)
		must(t, <-stopped)
		c.wantExit(t, kernel)
		restart("5m")
		fault(t, kind, "caddy stop during downloads", "HTTP/1.1 and HTTP/2, within the grace period", "whole, then it ends")
	})
	t.Run("SIGKILL", func(t *testing.T) {
		all := c.underWay(t, h1, h2)
		must(t, c.cmd.Process.Kill())
		c.wantExit(t, kernel)
		finish(t, all, false)
		restart("5m")
		fault(t, kind, "SIGKILL during downloads", "HTTP/1.1 and HTTP/2, the same as without the module",
			"clients see that they are not whole; a new process serves at once")
	})
}

// waitingConns are connections on which no request is being handled.
type waitingConns map[string]net.Conn

// waiting opens connections of each kind, with the module and without.
func (c *caddy) waiting(t testing.TB) waitingConns {
	t.Helper()
	all := waitingConns{}
	for _, port := range []string{"PORT", "PORT2"} {
		address := "127.0.0.1:" + c.getenv(port)
		dial := func(protocol string) *tls.Conn {
			config := c.tlsConfig(t)
			config.NextProtos = []string{protocol}
			conn, err := tls.Dial("tcp", address, config)
			must(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		raw, err := net.Dial("tcp", address)
		must(t, err)
		t.Cleanup(func() { _ = raw.Close() })
		all[port+", no handshake"] = raw
		all[port+", no request"] = dial("http/1.1")
		half := dial("http/1.1")
		_, err = io.WriteString(half, "GET /h2 HTTP/1.1\r\nHo")
		must(t, err)
		all[port+", half a request"] = half
		for _, path := range []string{"/none", "/h2"} {
			idle := &idleConn{tls: dial("http/1.1")}
			idle.discard(t, path)
			all[port+", HTTP/1.1 idle after "+path] = idle.tls
			two := newH2Conn(t, dial("h2"), wide)
			response := two.get(path)
			two.wait("the response ends", func() bool { return response.ended })
			all[port+", HTTP/2 idle after "+path] = &readByOther{two.conn, two.done}
		}
	}
	return all
}

// discard sends a request and reads the response.
func (i *idleConn) discard(t testing.TB, path string) {
	t.Helper()
	_, err := fmt.Fprintf(i.tls, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(i.tls), nil)
	must(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	must(t, err)
}

// A readByOther is a connection that somebody else reads, until done is closed.
type readByOther struct {
	net.Conn
	done chan struct{}
}

func (c *readByOther) Read([]byte) (int, error) {
	<-c.done
	return 0, io.EOF
}

// wantClosed waits until the server has closed them all.
func (all waitingConns) wantClosed(t testing.TB) {
	t.Helper()
	for name, conn := range all {
		timer := time.AfterFunc(patience, func() {
			t.Errorf("%s: not closed by the server", name)
			_ = conn.Close()
		})
		_, _ = io.Copy(io.Discard, conn)
		timer.Stop()
	}
}

// A client that speaks Multipath TCP is served as without the module; others are
// not affected by a listener that does.
func TestMultipathTCP(t *testing.T) {
	onKernel(t, "6.12")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	c.start(t, site)
	for _, multipath := range []bool{false, true} {
		before := c.metrics(t)
		client := c.client(t, nil)
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			dialer.SetMultipathTCP(multipath)
			conn, err := dialer.DialContext(ctx, network, "127.0.0.1:"+c.port)
			if err != nil {
				return nil, err
			}
			if used, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || used != multipath {
				_ = conn.Close()
				return nil, fmt.Errorf("Multipath TCP is used: %v, %w", used, errors.Join(err, errors.ErrUnsupported))
			}
			return conn, nil
		}
		resp, err := try(t, client, http.MethodGet, c.url("/f"))
		if multipath && errors.Is(err, errors.ErrUnsupported) {
			missing(t, err.Error())
		}
		must(t, err)
		wantBody(t, resp, http.StatusOK, f.digest)
		client.CloseIdleConnections()
		if multipath {
			c.expect(t, before, counts{"connections:not_tcp": 1, "responses:not_tcp": 1})
			c.expectReason(t, "not_tcp", 1)
		} else {
			c.expect(t, before, sentByKernel(f.size))
		}
	}
	fault(t, "Server life", "Client of Multipath TCP", "a client that insists on it, and one without", "whole; not_tcp, and offloaded")
}

// Every listener of a site is served, also those that another process has opened,
// and that outlive configurations.
func TestListeners(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	passed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer passed.Close()
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer datagrams.Close()
	stream, err := passed.(*net.TCPListener).File()
	must(t, err)
	defer stream.Close()
	packet, err := datagrams.(*net.UDPConn).File()
	must(t, err)
	defer packet.Close()
	c.files = []*os.File{stream, packet} // 3 and 4
	const sites = `
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
	c.start(t, strings.Replace(sites, "NUMBER", "0", 1))
	addresses := []string{
		"127.0.0.1:" + c.port, "127.0.0.2:" + c.port, "127.0.0.3:" + c.getenv("PORT2"), passed.Addr().String(),
	}
	for number, protocol := range protocolsOverTLS {
		if number > 0 {
			c.reload(t, strings.Replace(sites, "NUMBER", fmt.Sprint(number), 1))
		}
		for _, address := range addresses {
			before := c.metrics(t)
			config := c.tlsConfig(t)
			config.NextProtos = []string{protocol}
			client := c.client(t, config)
			client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			}
			// A connection that reaches the old server is dropped, with
			// Caddy's own listener as with ours.
			var resp response
			eventually(t, address+" is served by the new configuration", func() (err error) {
				resp, err = try(t, client, http.MethodGet, "https://localhost/f")
				return err
			})
			client.CloseIdleConnections()
			wantBody(t, resp, http.StatusOK, f.digest)
			if got := resp.Header.Get("Configuration"); got != fmt.Sprint(number) {
				t.Errorf("%s: configuration %s, want %d", address, got, number)
			}
			want := sentByKernel(f.size)
			want["connections:not_needed"] = anyNumber
			c.expect(t, before, want)
		}
	}
	fault(t, "Server life", "Several servers and listeners", "several addresses, and sockets of systemd (fd, fdgram); over reloads", "all are offloaded")
}

// Other listener wrappers, in any order, make a difference only to whether
// connections can be offloaded. proxy_protocol and http_redirect belong before
// TLS; behind it they do what they do without the module, right or wrong.
func TestWrapperOrders(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	offloaded := counts{"connections:offloaded": 2, "connections:not_needed": 1, "responses:sendfile": 2, "sendfile_bytes": 2 * large}
	notTCP := counts{"connections:not_tcp": 3, "responses:not_offloadable": 2}
	hidden := counts{"connections:not_needed": 3} // net/http does not see that it is TLS
	testWrapperOrders(t, newCaddy(t), []wrapperOrder{
		{"tls ktls", "tls", offloaded},
		{"tls ktls ktls", "tls", offloaded},
		{"proxy_protocol tls ktls", "proxy_protocol tls", notTCP},
		{"http_redirect tls ktls", "http_redirect tls", notTCP},
		{"proxy_protocol http_redirect tls ktls", "proxy_protocol http_redirect tls", notTCP},
		{"tls proxy_protocol ktls", "tls proxy_protocol", counts{}},
		{"tls ktls proxy_protocol", "tls proxy_protocol", hidden},
		{"tls http_redirect ktls", "tls http_redirect", counts{}},
		{"tls ktls http_redirect", "tls http_redirect", hidden},
	})
	fault(t, "Server life", "Other listener wrappers", "proxy_protocol and http_redirect before and behind tls and ktls",
		"as without the module; not_tcp where they stand before tls")
}

// caddy-l4's listener wrapper is another one.
func TestLayer4(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	requireProgram(t, "caddy-l4")
	c := newCaddy(t)
	c.program = "caddy-l4"
	testWrapperOrders(t, c, []wrapperOrder{
		{"layer4 tls ktls", "layer4 tls", counts{"connections:not_tcp": 3, "responses:not_offloadable": 2}},
		{"tls layer4 ktls", "tls layer4", counts{}},
	})
	fault(t, "Server life", "Listener wrapper of caddy-l4", "layer4 before and behind tls", "as without the module; not_tcp where it stands before tls")
}

// A wrapperOrder is a list of listener wrappers, and the same without the module.
type wrapperOrder struct {
	wrappers, without string
	want              counts // of requests over HTTP/1.1, HTTP/2 and without TLS
}

// wrapperOptions are those of listener wrappers that need some.
var wrapperOptions = strings.NewReplacer(
	"proxy_protocol", "proxy_protocol {\nallow 127.0.0.0/8\n}",
	"layer4", "layer4 {\n@bad remote_ip 192.0.2.0/24\nroute @bad {\nclose\n}\n}",
)

// testWrapperOrders compares what clients see.
func testWrapperOrders(t *testing.T, c *caddy, tests []wrapperOrder) {
	c.addFile(t, "f", large)
	var global, sites strings.Builder
	ports := map[string]string{}
	add := func(wrappers string) {
		if ports[wrappers] != "" {
			return
		}
		port := freePorts(t, 1)[0]
		ports[wrappers] = port
		// Caddy puts tls first by itself, and refuses to be told so.
		list := strings.TrimPrefix(wrappers+" ", "tls ")
		list = wrapperOptions.Replace(strings.ReplaceAll(list, " ", "\n"))
		if list != "" {
			fmt.Fprintf(&global, "servers 127.0.0.1:%s {\nlistener_wrappers {\n%s}\n}\n", port, list)
		}
		directive := ""
		if strings.Contains(wrappers, "ktls") {
			directive = "ktls"
		}
		fmt.Fprintf(&sites, "https://localhost:%s {\n%s\nheader Seen \"{http.request.scheme} {http.request.remote.host}\"\nroot {$ROOT}\nfile_server\n}\n", port, directive)
	}
	add("tls")
	for _, test := range tests {
		add(test.wrappers)
		add(test.without)
	}
	c.start(t, "{\n"+global.String()+"}\n"+sites.String())
	known := map[string]string{}
	stock := func(protocol, wrappers string) string {
		key := protocol + " " + wrappers
		if known[key] == "" {
			known[key] = c.seen(t, protocol, ports[wrappers], wrappers)
		}
		return known[key]
	}
	for _, test := range tests {
		t.Run(test.wrappers, func(t *testing.T) {
			before := c.metrics(t)
			for _, protocol := range []string{"http/1.1", "h2", "none"} {
				got, want := c.seen(t, protocol, ports[test.wrappers], test.wrappers), stock(protocol, test.without)
				if protocol == "none" && test.want["connections:not_needed"] == 3 {
					want = stock(protocol, "tls") // the module answers even so
				}
				if got != want {
					t.Errorf("%s: %s, without the module %s", protocol, got, want)
				}
			}
			c.expect(t, before, test.want)
		})
	}
}

// seen asks for /f, over a protocol of TLS or without TLS, and says what comes.
func (c *caddy) seen(t testing.TB, protocol, port, wrappers string) string {
	t.Helper()
	client := c.client(t, c.quick(t, protocol))
	defer client.CloseIdleConnections()
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		if err == nil && strings.HasPrefix(wrappers, "proxy_protocol") {
			_, err = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n")
		}
		return conn, err
	}
	scheme := "https"
	if protocol == "none" {
		scheme = "http"
	}
	resp, err := try(t, client, http.MethodGet, scheme+"://localhost:"+port+"/f")
	if err != nil {
		return "an error"
	}
	return fmt.Sprintf("%s %s, %s, %v, %s", resp.Proto, resp.Status, resp.Header.Get("Seen"), resp.body,
		strings.ReplaceAll(resp.Header.Get("Location"), port, "PORT"))
}

package integration_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// withWindows has a client's connections of HTTP/2 begin with these windows.
func withWindows(client *http.Client, connection, stream int) *http.Client {
	client.Transport.(*http.Transport).HTTP2 = &http.HTTP2Config{
		MaxReceiveBufferPerConnection: connection, MaxReceiveBufferPerStream: stream,
	}
	return client
}

// withXNet has a client speak HTTP/2 by golang.org/x/net.
func withXNet(t testing.TB, client *http.Client) *http.Client {
	t.Helper()
	_, err := http2.ConfigureTransports(client.Transport.(*http.Transport)) //nolint:staticcheck // other code than net/http's own
	testutil.Must(t, err)
	return client
}

// Go's clients, with the windows that they have and with the least, get files of all
// sizes, one after the other and at once, over one connection.
func TestHTTP2GoClients(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	var files []harness.File
	for i, size := range []int64{harness.MinSize, harness.MinSize + 1, harness.MinSize + 16_385, 1<<20 + 1, 20 << 20} {
		f := c.Root.AddFile(t, fmt.Sprint(i), size)
		files = append(files, harness.File{Digest: f.Digest})
	}
	c.Start(t, harness.FileSite)
	// The client adds the size to what every connection begins with.
	const least = harness.InitialWindow
	tests := []struct {
		name   string
		client *http.Client
	}{
		{"net/http", c.ProtocolClient(t, harness.HTTP2)},
		{"net/http, small windows", withWindows(c.ProtocolClient(t, harness.HTTP2), least, 10_000)},
		{"net/http, small windows of streams", withWindows(c.ProtocolClient(t, harness.HTTP2), 1<<24, 10_000)},
		{"golang.org/x/net", withXNet(t, c.ProtocolClient(t, harness.HTTP2))},
		{"golang.org/x/net, small windows", withXNet(t, withWindows(c.ProtocolClient(t, harness.HTTP2), least, 10_000))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before, want := c.Metrics(t), harness.Counts{"connections:offloaded": 1}
			get := func(i int) {
				resp, err := harness.Try(t, test.client, http.MethodGet, c.URL(fmt.Sprint("/", i)))
				if err != nil {
					t.Error(err)
					return
				}
				harness.WantBody(t, resp, http.StatusOK, files[i].Digest)
				if resp.ProtoMajor != 2 {
					t.Errorf("protocol %s", resp.Proto)
				}
			}
			count := func(i int) {
				want.AddSent(files[i].Size)
			}
			for i := range files {
				get(i)
				count(i)
			}
			const atOnce = 8
			for i := range atOnce {
				count(i % len(files))
			}
			harness.InParallel(t, atOnce, atOnce, func(i int) { get(i % len(files)) })
			test.client.CloseIdleConnections()
			c.Expect(t, before, want)
		})
	}
	results.Fault(t, "Clients", "Go's HTTP/2 clients", "net/http and golang.org/x/net, with their own windows and the least; 13 files of 131,072 bytes to 20 MiB over one connection, 8 at once",
		"whole, by sendfile")
}

// nghttp gets several files at once, whatever its windows are. Below 2^16 it holds
// back updates of the connection's window, until the server has used as much of it.
func TestHTTP2Nghttp(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "nghttp")
	c := harness.NewCaddy(t)
	// It prints what comes of all streams as it comes: so each file has a byte of its
	// own, and others, which come alone, have random ones.
	const atOnce = 8
	sizes := map[int]int64{10: 150_000, 14: 500_000, 16: 1<<20 + 1, 30: 4<<20 + 1}
	alone := map[int]harness.File{}
	for bits, size := range sizes {
		for i := range atOnce {
			c.Root.AddContent(t, fmt.Sprintf("%d-%d", bits, i), bytes.Repeat([]byte{byte(i)}, int(size)))
		}
		alone[bits] = c.Root.AddFile(t, fmt.Sprint(bits), size)
	}
	c.Start(t, harness.FileSite)
	for _, test := range []struct{ connection, stream int }{
		{10, 10}, {14, 14}, {16, 16}, {30, 30}, {10, 30}, {30, 10}, {16, 30}, {30, 16},
	} {
		t.Run(fmt.Sprintf("2^%d, streams 2^%d", test.connection, test.stream), func(t *testing.T) {
			bits := min(test.connection, test.stream)
			before, want := c.Metrics(t), harness.Counts{"connections:offloaded": 2, "connections_lost": harness.AnyNumber} // as with curl
			count := func() {
				want.AddSent(sizes[bits])
			}
			args := []string{"--no-verify-peer", "-W", fmt.Sprint(test.connection), "-w", fmt.Sprint(test.stream)}
			got, err := harness.RunProgram(t, "nghttp", append(args, c.URL(fmt.Sprint("/", bits)))...)
			testutil.Must(t, err)
			count()
			if got != alone[bits].Digest {
				t.Errorf("alone: %v, want %v", got, alone[bits].Digest)
			}
			for i := range atOnce {
				args = append(args, c.URL(fmt.Sprintf("/%d-%d", bits, i)))
				count()
			}
			all, err := exec.CommandContext(t.Context(), "nghttp", args...).Output()
			testutil.Must(t, err)
			for i := range atOnce {
				if n := bytes.Count(all, []byte{byte(i)}); int64(n) != sizes[bits] {
					t.Errorf("file %d has %d bytes, want %d", i, n, sizes[bits])
				}
			}
			if int64(len(all)) != atOnce*sizes[bits] {
				t.Errorf("%d bytes have come, want %d", len(all), atOnce*sizes[bits])
			}
			c.Expect(t, before, want)
		})
	}
	results.Fault(t, "Clients", "nghttp", "windows of 2^10 to 2^30 for the connection and for streams, one file and eight at once", "whole, by sendfile")
}

func TestHTTP2Curl(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", 3<<20)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	if got, want := c.Curl(t, "--http2", c.URL("/protocol")), harness.DigestOf([]byte("HTTP/2.0")); got != want {
		t.Errorf("the protocol has %v, want %v", got, want)
	}
	c.WantCurl(t, f, "--http2", c.URL("/f.bin"))
	want := harness.SentByKernel(f.Size)
	want["connections:offloaded"]++
	// curl 8.14 says goodbye with GOAWAY and close_notify, and may have gone when the
	// server answers that.
	want["connections_lost"] = harness.AnyNumber
	c.Expect(t, before, want)
}

func TestHTTP2Load(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "h2load")
	const clients, requests = 3, 60
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	text, err := exec.CommandContext(t.Context(), "h2load", "--clients", fmt.Sprint(clients), "--requests", fmt.Sprint(requests),
		"--max-concurrent-streams", "10", "--connect-to", c.Address(), c.URL("/f.bin")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	report := bufio.NewScanner(bytes.NewReader(text))
	succeeded := fmt.Sprintf("%d succeeded, 0 failed, 0 errored, 0 timeout", requests)
	data := fmt.Sprintf("(%d) data", requests*f.Size)
	for report.Scan() {
		line := report.Text()
		if strings.HasPrefix(line, "requests:") && !strings.Contains(line, succeeded) ||
			strings.HasPrefix(line, "traffic:") && !strings.Contains(line, data) {
			t.Error(line)
		}
	}
	want := harness.SentTimes(clients, requests, requests*f.Size)
	want["connections_lost"] = harness.AnyNumber // h2load does not wait for the server's goodbye
	c.Expect(t, before, want)
}

package integration_test

import (
	"bytes"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// destroy has the kernel destroy the server's socket of a client's connection.
func destroy(t testing.TB, client net.Conn) {
	t.Helper()
	out, err := exec.Command("ss", "-K", "-t", "-n", "-H",
		"src", client.RemoteAddr().String(), "dst", client.LocalAddr().String()).CombinedOutput()
	if n := bytes.Count(out, []byte("\n")); err != nil || n != 1 {
		t.Errorf("ss has destroyed %d sockets: %v, %s", n, err, out)
	}
}

// A destruction is what a client does before the server's socket is destroyed, and then.
type destruction struct {
	how   string
	small bool // the file
	// do says what the client has got. query marks the request.
	do        func(t testing.TB, c *harness.Caddy, r *harness.RecordClient, f harness.File, query string) string
	result    string
	counts    harness.Counts
	protocols []string
}

const resetByPeer = "read: read: connection reset by peer"

var destructions = []destruction{
	{
		"in the middle of a download", false,
		func(t testing.TB, _ *harness.Caddy, r *harness.RecordClient, f harness.File, query string) string {
			destroyed := make(chan struct{})
			left := 400 // with as many pieces of the body
			return r.OftenDuring("/f?"+query, left, 20_000, func(r *harness.RecordClient) []byte {
				if left--; left == 399 {
					go func() { defer close(destroyed); destroy(t, r.Raw) }()
				}
				if left == 0 {
					<-destroyed
				}
				select {
				case <-destroyed:
				case <-time.After(10 * time.Millisecond):
				}
				return nil
			}).Is(f)
		},
		harness.Beginning + resetByPeer,
		destroyedDownload,
		harness.Protocols,
	},
	{
		"while the server waits for a client that does not read", false,
		func(t testing.TB, c *harness.Caddy, r *harness.RecordClient, f harness.File, query string) string {
			return r.During("/f?"+query, func(r *harness.RecordClient) []byte {
				destroy(t, r.Raw)
				c.Log.AwaitAccess(t, query)
				return nil
			}).Is(f)
		},
		harness.Beginning + resetByPeer,
		destroyedDownload,
		harness.Protocols,
	},
	{
		"of an idle connection", true,
		func(t testing.TB, c *harness.Caddy, r *harness.RecordClient, f harness.File, query string) string {
			result := r.Get("/small?" + query).Is(f)
			c.Log.AwaitAccess(t, query)
			destroy(t, r.Raw)
			return result + ", then " + r.End()
		},
		"whole, then " + resetByPeer,
		harness.SentByKernel(lastSize),
		harness.Protocols,
	},
	{
		"of a connection that is closed, but has not sent everything", true,
		func(t testing.TB, c *harness.Caddy, r *harness.RecordClient, f harness.File, query string) string {
			before := serving(t, c) - 1
			_, err := io.WriteString(r, harness.RequestText("/small?"+query, "Connection: close"))
			testutil.Must(t, err)
			c.Log.AwaitAccess(t, query)
			closedAll(t, c, before)
			destroy(t, r.Raw)
			return r.Response().Is(f)
		},
		harness.Beginning + resetByPeer,
		harness.Counts{"connections:offloaded": 1, "responses:sendfile": 1, "sendfile_bytes": lastSize, "connections_lost": 1},
		[]string{harness.HTTP1},
	},
}

// destroyedDownload is what a download changes whose connection is destroyed.
var destroyedDownload = harness.Counts{
	"connections:offloaded": 1, "responses:sendfile": 1, "responses_failed": 1, "sendfile_bytes": harness.AnyNumber,
}

// lastSize is the size of a file that fits into the buffers between server and client,
// but not into those of the client.
const lastSize = 300_007

// An administrator may destroy a connection's socket by ss -K, the kernel may do so
// itself when an address or an interface goes. The client must not take a part for all.
func TestDestroyedSocket(t *testing.T) {
	if !harness.InOwnNetwork(t) {
		return
	}
	harness.RequireProgram(t, "ss")
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Huge)
	small := c.Root.AddFile(t, "small", lastSize)
	c.Start(t, strings.ReplaceAll(harness.BothSites(), "file_server", "file_server\n\tlog"))
	trace, before := harness.TraceOf(t, c), c.Metrics(t)
	bystander := harness.StartDownload(t, c.Site, "/f?bystander")
	c.Expect(t, before, harness.Counts{"connections:offloaded": 1, "responses:sendfile": 1, "sendfile_bytes": harness.AnyNumber})
	for _, d := range destructions {
		for _, protocol := range d.protocols {
			t.Run(d.how+", "+protocol, func(t *testing.T) {
				before := c.Metrics(t)
				want := f
				if d.small {
					want = small
				}
				result := c.SameAsStock(t, func(site harness.Site) string {
					r := harness.OpenRecords(t, site, protocol)
					defer r.Raw.Close()
					return d.do(t, c, r, want, strings.ReplaceAll(d.how, " ", "-")+queryOf(protocol, site))
				})
				if result != d.result {
					t.Errorf("%s, want %s", result, d.result)
				}
				c.Expect(t, before, d.counts)
			})
		}
	}
	bystander.WantFile(t, f)
	harness.WantNothingLeft(t, c, trace)
	c.WantFile(t, "/f", f)
	const what, cut = "the server's socket is destroyed (ss -K)", "cut as by stock Caddy, nothing is left, others are served; "
	results.Fault(t, "Kernel failures", what, "in the middle of a download, and while the server waits for the client; HTTP/1.1 and HTTP/2",
		cut+"`responses_failed` counted")
	results.Fault(t, "Kernel failures", what, "idle; HTTP/1.1 and HTTP/2", "closed as by stock Caddy, nothing is left")
	results.Fault(t, "Kernel failures", what, "when the server has closed it, but not yet sent everything; HTTP/1.1", cut+"`connections_lost` counted")
}

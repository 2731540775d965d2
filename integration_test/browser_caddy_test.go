package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// HTTP/2 only, as the module has nothing to do with HTTP/3. The metrics are at a
// port of their own, so that asking for them makes no TLS connection.
const browserSite = `
{
	admin off
	auto_https off
	default_bind {$ADDRESS}
	servers :{$PORT} {
		protocols h1 h2
		listener_wrappers {
			ktls
		}
	}
}
https://localhost:{$PORT} {
	ktls {
		min_size 8KiB
	}
	tls {$DIR}/cert.pem {$DIR}/key.pem
	log
	header Cache-Control no-store
	root {$DIR}/www
	file_server
}
http://:{$METRICS_PORT} {
	metrics
}
`

// A browsedCaddy is a Caddy that a browser asks, here or in a virtual machine.
type browsedCaddy struct {
	*webSite
	port        string
	metricsPort string
	log         harness.Log
}

// startNative starts Caddy on this machine.
func startNative(t *testing.T, s *webSite) *browsedCaddy {
	t.Helper()
	c := newBrowsedCaddy(t, s)
	self, err := os.Executable()
	testutil.Must(t, err)
	cmd := exec.Command(self, "run", "--config", s.dir+"/Caddyfile", "--adapter", "caddyfile")
	cmd.Env = append(harness.Environ(s.dir), "DIR="+s.dir, "ADDRESS=127.0.0.1", "PORT="+c.port, "METRICS_PORT="+c.metricsPort)
	c.start(t, cmd)
	return c
}

// startInMachine starts Caddy in a virtual machine.
func startInMachine(t *testing.T, s *webSite, kernel string) *browsedCaddy {
	t.Helper()
	c := newBrowsedCaddy(t, s)
	self, err := os.Executable()
	testutil.Must(t, err)
	args := []string{"--kernel", kernel, "--timeout", "600",
		"--hostfwd", c.port + ":" + c.port, "--hostfwd", c.metricsPort + ":" + c.metricsPort,
		"--add", self + ":/caddy", "--add", s.dir + ":/site"}
	for _, variable := range append(harness.CaddyEnviron("/"), "DIR=/site", "ADDRESS=10.0.2.15", "PORT="+c.port, "METRICS_PORT="+c.metricsPort) {
		args = append(args, "--env", variable)
	}
	c.start(t, exec.Command("vm/run", append(args, "--", "/caddy", "run", "--config", "/site/Caddyfile", "--adapter", "caddyfile")...))
	return c
}

func newBrowsedCaddy(t *testing.T, s *webSite) *browsedCaddy {
	t.Helper()
	ports := testutil.FreePorts(t, 2)
	return &browsedCaddy{
		webSite: s, port: ports[0], metricsPort: ports[1],
		log: harness.Log(filepath.Join(t.TempDir(), "log")),
	}
}

// start runs Caddy until the test ends, and waits until it serves.
func (c *browsedCaddy) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	t.Cleanup(func() { c.log.Inspect(t) })
	p := harness.StartProcess(t, cmd, string(c.log), func(p *os.Process) {
		// The virtual machine has something to clean up.
		_ = p.Signal(syscall.SIGTERM)
	})
	// A virtual machine has to boot first.
	testutil.EventuallyWithin(t, browserPatience, "Caddy serves", func() error {
		select {
		case <-p.Exited:
			t.Fatalf("Caddy has ended:\n%s", c.log.Tail())
		default:
		}
		_, err := c.counters()
		return err
	})
}

// counters returns the module's counters but those that are 0.
func (c *browsedCaddy) counters() (harness.Counts, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + c.metricsPort)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	all, err := harness.ReadCounters(bytes.NewReader(metrics))
	maps.DeleteFunc(all, func(_ string, n int64) bool { return n == 0 })
	return all, err
}

// byVideo reports whether the video element has asked.
func byVideo(a harness.Access) bool { return a.Request.Headers.Get("Sec-Fetch-Dest") == "video" }

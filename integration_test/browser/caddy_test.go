package browser_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/counters"
)

// HTTP/2 only, as the module has nothing to do with HTTP/3. The metrics are at a
// port of their own, so that asking for them makes no TLS connection.
const caddyfile = `
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

// patience bounds a wait. Emulated machines are slow.
const patience = 2 * time.Minute

// A caddy is a Caddy that runs, here or in a virtual machine.
type caddy struct {
	site        *site
	port        string
	metricsPort string
	logFile     string
}

// startNative starts Caddy on this machine.
func startNative(t *testing.T, s *site) *caddy {
	t.Helper()
	c := newCaddy(t, s)
	cmd := exec.Command(s.program, "run", "--config", s.dir+"/Caddyfile", "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir,
		"DIR="+s.dir, "ADDRESS=127.0.0.1", "PORT="+c.port, "METRICS_PORT="+c.metricsPort)
	c.start(t, cmd)
	return c
}

// startInMachine starts Caddy in a virtual machine.
func startInMachine(t *testing.T, s *site, kernel string) *caddy {
	t.Helper()
	c := newCaddy(t, s)
	c.start(t, exec.Command("../vm/run", "--kernel", kernel, "--timeout", "600",
		"--hostfwd", c.port+":"+c.port, "--hostfwd", c.metricsPort+":"+c.metricsPort,
		"--add", s.program+":/caddy", "--add", s.dir+":/site",
		"--env", "DIR=/site", "--env", "ADDRESS=10.0.2.15", "--env", "PORT="+c.port, "--env", "METRICS_PORT="+c.metricsPort,
		"--", "/caddy", "run", "--config", "/site/Caddyfile", "--adapter", "caddyfile"))
	return c
}

func newCaddy(t *testing.T, s *site) *caddy {
	t.Helper()
	ports := freePorts(t, 2)
	return &caddy{
		site: s, port: ports[0], metricsPort: ports[1],
		logFile: filepath.Join(t.TempDir(), "log"),
	}
}

// start runs Caddy until the test ends, and waits until it serves.
func (c *caddy) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	exited := runInBackground(t, cmd, c.logFile, func() {
		// The virtual machine has something to clean up.
		_ = cmd.Process.Signal(syscall.SIGTERM)
	})
	eventually(t, "Caddy serves", func() error {
		select {
		case <-exited:
			t.Fatalf("Caddy has ended:\n%s", tail(c.logFile))
		default:
		}
		_, err := c.metrics()
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Caddy's log ends with:\n%s", tail(c.logFile))
		}
	})
}

// runInBackground starts a program, which end ends when the test does. All it
// prints goes to a file.
func runInBackground(t *testing.T, cmd *exec.Cmd, logFile string, end func()) (exited chan struct{}) {
	t.Helper()
	log, err := os.Create(logFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited = make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		end()
		select {
		case <-exited:
		case <-time.After(patience):
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
			<-exited
		}
	})
	return exited
}

// metrics returns the module's counters but those that are 0.
func (c *caddy) metrics() (map[string]int64, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + c.metricsPort)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	all, err := counters.Read(resp.Body)
	maps.DeleteFunc(all, func(_ string, n int64) bool { return n == 0 })
	return all, err
}

// An access is a line of the access log.
type access struct {
	Logger  string
	Status  int
	Size    int64
	Request struct {
		RemotePort string `json:"remote_port"`
		Proto      string
		URI        string
		Headers    http.Header
	}
	Header http.Header `json:"resp_headers"`
}

// video reports whether the video element has asked.
func (a access) video() bool { return a.Request.Headers.Get("Sec-Fetch-Dest") == "video" }

// length is the length of the body that was to be sent.
func (a access) length() int64 {
	n, _ := strconv.ParseInt(a.Header.Get("Content-Length"), 10, 64)
	return n
}

// accesses returns the access log.
func (c *caddy) accesses(t *testing.T) []access {
	t.Helper()
	log, err := os.ReadFile(c.logFile)
	if err != nil {
		t.Fatal(err)
	}
	var list []access
	for line := range bytes.Lines(log) {
		var a access
		if json.Unmarshal(line, &a) == nil && strings.HasPrefix(a.Logger, "http.log.access") {
			list = append(list, a)
		}
	}
	return list
}

// freePorts returns ports of 127.0.0.1 that nobody listens at, each another.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close() // when all of them are known
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}

// eventually asks until there is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v not yet: %s: %v", patience, what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tail returns the end of a file.
func tail(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	all, _ := io.ReadAll(f)
	return all[max(0, len(all)-4000):]
}

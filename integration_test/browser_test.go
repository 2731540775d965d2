package integration_test

import (
	"encoding/json"
	"fmt"
	"image"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

const (
	// envChromium is the browser's program. Without it the test is skipped, also where
	// kernel TLS is required: in virtual machines there is no browser.
	envChromium = "KTLS_CHROMIUM"
	// envKernels are the kernels of virtual machines to load the page from.
	envKernels = "KTLS_KERNELS"
)

const (
	browserMinSize = 8 << 10 // as in the Caddyfile
	images         = 200
	// part is how much of a file Caddy hands on at once, or less.
	part = 64 << 10
)

// browserPatience bounds waits for what takes longer than other things. Emulated
// machines are slow.
const browserPatience = 2 * testutil.Patience

// Chromium loads a page over HTTP/2: from a Caddy on this machine, and from Caddies in
// virtual machines whose kernels have TLS.
func TestChromium(t *testing.T) {
	if os.Getenv(envChromium) == "" {
		t.Skipf("needs %s, which the script browser/run sets", envChromium)
	}
	s := newWebSite(t)
	t.Run("native", func(t *testing.T) {
		c := startNative(t, s)
		c.visit(t)
		c.expectRequests(t)
		if _, err := ktls.Probe(); err != nil {
			c.expectUnsupported(t)
		} else {
			c.expectSendfile(t)
		}
	})
	for kernel := range strings.FieldsSeq(os.Getenv(envKernels)) {
		t.Run("kernel "+kernel, func(t *testing.T) {
			c := startInMachine(t, s, kernel)
			c.visit(t)
			c.expectSendfile(t)
			c.expectRequests(t)
		})
	}
}

// A report is what the page has got.
type report struct {
	Error         string
	Images        [][2]int
	Bodies        []body
	Width, Height int
	Duration      float64
	Frames        []struct{ N, Grey int }
	Ranges        []struct {
		From, To int
		body
	}
	Protocols map[string]int
}

type body struct {
	Status int
	Sum    string
}

// visit has Chromium load the page, and compares what it got.
func (c *browsedCaddy) visit(t *testing.T) {
	t.Helper()
	start := time.Now()
	r := c.browse(t)
	t.Logf("the page took %.1f s", time.Since(start).Seconds())
	if r.Error != "" {
		t.Fatalf("the page has failed: %s", r.Error)
	}
	if len(r.Images) != images || len(r.Bodies) != images+1 || len(r.Frames) < 6 || len(r.Ranges) < 4 {
		t.Fatalf("the page has %d images, %d bodies, %d frames, %d ranges",
			len(r.Images), len(r.Bodies), len(r.Frames), len(r.Ranges))
	}
	for i, size := range r.Images {
		if got := image.Pt(size[0], size[1]); got != c.images[i] {
			t.Errorf("image %d has the size %v, want %v", i, got, c.images[i])
		}
	}
	for i, got := range r.Bodies {
		if want := (body{http.StatusOK, c.bodies[i]}); got != want {
			t.Errorf("body %d is %v, want %v", i, got, want)
		}
	}
	if r.Width != videoWidth || r.Height != videoHeight || r.Duration != videoFrames/videoRate {
		t.Errorf("video is %d x %d, %v s", r.Width, r.Height, r.Duration)
	}
	for _, frame := range r.Frames {
		// Neighbours differ by less than 2.
		if want := shadeSeen(frame.N); frame.Grey < want-1 || frame.Grey > want+1 {
			t.Errorf("frame %d has the grey %d, want %d", frame.N, frame.Grey, want)
		}
	}
	for _, part := range r.Ranges {
		want := body{http.StatusPartialContent, hash(c.video[part.From : part.To+1])}
		if part.body != want {
			t.Errorf("bytes %d to %d are %v, want %v", part.From, part.To, part.body, want)
		}
	}
	// The page, images twice, the video more often.
	if n := r.Protocols["h2"]; len(r.Protocols) != 1 || n < 1+2*images+2 {
		t.Errorf("protocols and how often: %v, want h2 only", r.Protocols)
	}
}

// browse runs Chromium until the page has posted its report.
func (c *browsedCaddy) browse(t *testing.T) report {
	t.Helper()
	posted := make(chan []byte, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		select {
		case posted <- b:
		default:
		}
	}))
	defer collector.Close()
	var r report
	// A test of its own, so that Chromium has ended when the counters are read.
	t.Run("browse", func(t *testing.T) {
		profile, log := t.TempDir(), harness.Log(filepath.Join(t.TempDir(), "log"))
		cmd := exec.Command(os.Getenv(envChromium), "--headless", "--no-sandbox",
			"--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run",
			"--no-proxy-server", "--autoplay-policy=no-user-gesture-required", "--enable-logging=stderr",
			"--user-data-dir="+profile, "--ignore-certificate-errors-spki-list="+c.publicKey,
			"--remote-debugging-pipe", "https://localhost:"+c.port+"/#"+collector.URL)
		// Chromium ends when the one who could debug it has gone. Signals
		// would end Debian's script only, and not the browser.
		commands, answers := pipe(t), pipe(t)
		cmd.ExtraFiles = []*os.File{commands.read, answers.write}
		chromium := harness.StartProcess(t, cmd, string(log), func(*os.Process) { _ = commands.write.Close() })
		_ = commands.read.Close()
		select {
		case b := <-posted:
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatalf("report: %v\n%s", err, b)
			}
		case <-chromium.Exited:
			t.Fatalf("Chromium has ended:\n%s", log.Tail())
		case <-time.After(browserPatience):
			t.Fatalf("Chromium has not reported after %v:\n%s", browserPatience, log.Tail())
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return r
}

type ends struct{ read, write *os.File }

func pipe(t *testing.T) ends {
	t.Helper()
	read, write, err := os.Pipe()
	testutil.Must(t, err)
	t.Cleanup(func() { _, _ = read.Close(), write.Close() })
	return ends{read, write}
}

// expectRequests fails the test unless the access log has all requests, over
// HTTP/2, and several ranges that the video element has asked for.
func (c *browsedCaddy) expectRequests(t *testing.T) {
	t.Helper()
	count, starts := 0, map[string]bool{}
	for _, a := range c.log.Accesses() {
		count++
		if a.Request.Proto != "HTTP/2.0" {
			t.Errorf("%s was asked for over %s", a.Request.URI, a.Request.Proto)
		}
		if byVideo(a) {
			starts[a.Request.Headers.Get("Range")] = true
			if a.Status != http.StatusPartialContent {
				t.Errorf("the video's request for %s has status %d", a.Request.Headers["Range"], a.Status)
			}
		} else if a.Status/100 != 2 || a.Size != a.Length() {
			t.Errorf("%s has status %d and %d bytes of %d", a.Request.URI, a.Status, a.Size, a.Length())
		}
	}
	if count < 1+2*images+2 || len(starts) < 2 {
		t.Errorf("the access log has %d requests, the video's ranges are %v", count, starts)
	}
	t.Logf("%d requests, %d different ranges of the video", count, len(starts))
}

// expectUnsupported fails the test unless the module has counted what it was not able to
// offload, and nothing else.
func (c *browsedCaddy) expectUnsupported(t *testing.T) {
	t.Helper()
	got, err := c.counters()
	testutil.Must(t, err)
	if len(got) != 2 || got["connections:kernel_unsupported"] == 0 || got["responses:kernel_unsupported"] == 0 {
		t.Errorf("the module has counted %v, want kernel_unsupported only", got)
	}
}

// expectSendfile fails the test unless all that is worth it has gone out by
// sendfile, over connections that were offloaded.
func (c *browsedCaddy) expectSendfile(t *testing.T) {
	t.Helper()
	testutil.EventuallyWithin(t, browserPatience, "the counters agree with the access log", func() error {
		var all, begun, videos, short, least, most int64
		connections := map[string]bool{}
		for _, a := range c.log.Accesses() {
			if a.Length() < browserMinSize {
				continue
			}
			connections[a.Request.RemotePort] = true
			all++
			if a.Size > 0 {
				begun++
			}
			if a.Size < a.Length() {
				short++
			}
			most += a.Size
			if byVideo(a) {
				// It may give up what it has asked for. What had gone
				// out of the last part is not in the log then.
				videos++
				most += part
			} else {
				least += a.Size - harness.NotByKernel
			}
		}
		got, err := c.counters()
		if err != nil {
			return err
		}
		offloaded := int64(len(connections))
		// The video may give up a request before its response has begun.
		closing := got["responses:closing"]
		want := map[string][2]int64{
			"connections:offloaded":  {offloaded, offloaded},
			"connections:not_needed": {0, 2}, // opened in advance
			"responses:closing":      {0, videos},
			"responses:sendfile":     {begun - closing, all},
			"responses_failed":       {short - closing, videos},
			"sendfile_bytes":         {least, most},
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				return fmt.Errorf("counted %s: %v", name, got)
			}
		}
		for name, limits := range want {
			if n := got[name]; n < limits[0] || n > limits[1] {
				return fmt.Errorf("%s is %d, want %d to %d; all: %v", name, n, limits[0], limits[1], got)
			}
		}
		t.Logf("counted %v", got)
		return nil
	})
}

package integration_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
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

// A namedSite is a site with the module, or the one without.
type namedSite struct {
	harness.Site
	name string
}

// sitesToCompare returns the site with the module, and then the one without.
func sitesToCompare(c *harness.Caddy) []namedSite {
	return []namedSite{{c.Site, "the module"}, {c.Stock(), "stock"}}
}

// A life is a Caddy that is reloaded and restarted during downloads.
type life struct {
	*harness.Caddy
	t        testing.TB   // at whose end Caddy ends
	h1, h2   harness.File // to be downloaded over HTTP/1.1 and HTTP/2
	number   int          // of the configuration
	inKernel int64        // connections before
}

// configuration returns the next configuration.
func (l *life) configuration(t testing.TB, grace string) string {
	t.Helper()
	l.number++
	return harness.Replaced(t, lifeSites, "GRACE", grace, "NUMBER", fmt.Sprint(l.number))
}

// wantRestart waits until Caddy has ended, and its connections with it, and has another
// process serve.
func (l *life) wantRestart(t testing.TB, downloads []*transfer, whole bool) {
	t.Helper()
	l.WaitExit(t)
	testutil.Eventually(t, "the kernel has forgotten the connections", func() error {
		if n := harness.TLSStat(t, "TlsCurrTxSw"); n > l.inKernel {
			return fmt.Errorf("it has %d, before %d", n, l.inKernel)
		}
		return nil
	})
	finish(t, downloads, whole)
	l.Log.Inspect(t)
	l.Start(l.t, l.configuration(t, "5m"))
	l.WantFile(t, "/h2", l.h2)
}

const (
	serverLife = "Server life"
	forBoth    = "HTTP/1.1 and HTTP/2, the same as without the module"
)

// What a reload, a stop and a crash do to downloads is the same with the module
// and without.
func TestLife(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	l := &life{t: t, Caddy: harness.NewCaddy(t), inKernel: harness.TLSStat(t, "TlsCurrTxSw")}
	l.h1, l.h2 = l.Root.AddFile(t, "h1", harness.Huge), l.Root.AddFile(t, "h2", 400_000)
	l.Start(t, l.configuration(t, "0"))

	t.Run("reload", l.testReload)
	t.Run("reload, grace period over", l.testLateReload)
	t.Run("stop, grace period over", func(t *testing.T) {
		all := l.underWay(t)
		l.Signal(t, syscall.SIGTERM)
		l.wantRestart(t, all, false)
		results.Fault(t, serverLife, "SIGTERM during downloads that outlast the grace period", forBoth,
			"clients see that they are not whole; a new process serves at once")
	})
	t.Run("caddy stop", l.testStopCommand)
	t.Run("SIGKILL", func(t *testing.T) {
		all := l.underWay(t)
		l.Signal(t, os.Kill)
		l.wantRestart(t, all, false)
		results.Fault(t, serverLife, "SIGKILL during downloads", forBoth,
			"clients see that they are not whole; a new process serves at once")
	})
}

func (l *life) testReload(t *testing.T) {
	waiting := waiting(t, l.Caddy)
	all := l.underWay(t)
	l.Reload(t, l.configuration(t, "300ms"))
	finish(t, all, true)
	waiting.wantClosed(t)
	results.Fault(t, serverLife, "Reload during downloads", forBoth, "whole")
	results.Fault(t, serverLife, "Reload while connections wait", "no handshake yet, no request yet, half a request, idle; HTTP/1.1 and HTTP/2",
		"closed, as without the module")
}

func (l *life) testLateReload(t *testing.T) {
	all := l.underWay(t)
	l.Reload(t, l.configuration(t, "300ms"))
	l.Log.AwaitMessage(t, "server shutdown", 2)
	finish(t, all, true)
	results.Fault(t, serverLife, "Reload during downloads that outlast the grace period", forBoth, "whole")
}

func (l *life) testStopCommand(t *testing.T) {
	all := l.underWay(t)
	// It returns when Caddy has ended.
	stopped := make(chan int, 1)
	go func() {
		defer close(stopped) // also if Command ends the test
		_, _, code := l.Command(t, "stop", "--address", "unix/"+l.Socket)
		stopped <- code
	}()
	l.Log.AwaitMessage(t, "servers shutting down; grace period initiated", 1)
	finish(t, all, true)
	if code := <-stopped; code != 0 {
		t.Fatalf("caddy stop ends with exit code %d", code)
	}
	l.wantRestart(t, nil, true)
	results.Fault(t, serverLife, "caddy stop during downloads", "HTTP/1.1 and HTTP/2, within the grace period", "whole, then it ends")
}

// A transfer is a response of which little has been read.
type transfer struct {
	name  string
	body  io.ReadCloser
	soFar harness.Comparison
}

// underWay begins downloads, over each protocol with the module and without. The
// server can't finish them by itself.
func (l *life) underWay(t testing.TB) (all []*transfer) {
	t.Helper()
	before := l.Metrics(t)
	for _, protocol := range harness.Protocols {
		path, f := "/h1", l.h1
		if protocol == harness.HTTP2 {
			path, f = "/h2", l.h2
		}
		for _, site := range sitesToCompare(l.Caddy) {
			resp, err := site.NarrowClient(t, site.TLSConfig(t, protocol)).Get(site.URL(path))
			testutil.Must(t, err)
			t.Cleanup(func() { _ = resp.Body.Close() })
			transfer := &transfer{name: protocol + ", " + site.name, body: resp.Body, soFar: harness.Comparison{Rest: f.Content}}
			_, err = io.CopyN(&transfer.soFar, resp.Body, 10_000)
			testutil.Must(t, err)
			all = append(all, transfer)
		}
	}
	var now harness.Counts
	testutil.Eventually(t, "two responses go out by sendfile", func() error {
		now = l.Metrics(t)
		if n := now["responses:sendfile"] - before["responses:sendfile"]; n != 2 {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	if n := now["sendfile_bytes"] - before["sendfile_bytes"]; n >= l.h1.Size {
		t.Errorf("%d bytes are sent before they are read: the test shows nothing", n)
	}
	return all
}

// finish reads the rest and fails the test if it is not as wanted: whole, or, with
// an error, the beginning.
func finish(t testing.TB, all []*transfer, whole bool) {
	t.Helper()
	for _, transfer := range all {
		_, err := io.Copy(&transfer.soFar, transfer.body)
		rest := len(transfer.soFar.Rest)
		switch {
		case errors.Is(err, harness.ErrDiffers):
			t.Errorf("%s: %v", transfer.name, err)
		case err == nil && rest > 0:
			t.Errorf("%s: %d bytes are missing, and it looks whole", transfer.name, rest)
		case (err == nil) != whole:
			t.Errorf("%s: %v, %d bytes are missing; want it whole: %v", transfer.name, err, rest, whole)
		}
	}
}

package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const answer = `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	respond /which "ANSWER"
	file_server
}`

// A download goes on, to its end, while the configuration is replaced.
func TestReload(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Huge, strings.ReplaceAll(answer, "ANSWER", "first"))
	which := func(word string) error {
		client := c.Client(t, nil)
		defer client.CloseIdleConnections()
		resp, err := client.Get(c.URL("/which"))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != word {
			return fmt.Errorf("the site answers %q, %v", body, err)
		}
		return nil
	}
	before := c.Metrics(t)
	d := harness.StartDownload(t, c.Site, "/f")
	for _, word := range []string{"second", "third"} {
		c.Reload(t, strings.ReplaceAll(answer, "ANSWER", word))
		// net/http drops a request that reaches the old server just before
		// its end, with Caddy's own listener as with ours.
		testutil.Eventually(t, "the site answers "+word, func() error { return which(word) })
	}
	if sent := c.Metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; sent >= f.Size {
		t.Fatal("the whole file was sent before the reload: the test shows nothing")
	}
	d.WantFile(t, f)
	want := harness.SentByKernel(f.Size)
	want["connections:not_needed"] = harness.AnyNumber
	c.Expect(t, before, want)
	// The module's state belongs to the process.
	before = c.Metrics(t)
	c.WantFile(t, "/f", f)
	c.Expect(t, before, harness.SentByKernel(f.Size))
	results.Fault(t, "Server life", "Two reloads during a download", "HTTP/1.1", "whole")
}

// A Caddy that is asked to end lets the download finish.
func TestStop(t *testing.T) {
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Huge, harness.FileSite)
	d := harness.StartDownload(t, c.Site, "/f")
	c.Signal(t, os.Interrupt)
	c.Log.AwaitMessage(t, "servers shutting down with eternal grace period", 1)
	d.WantFile(t, f)
	c.WaitExit(t)
	results.Fault(t, "Server life", "SIGINT during a download", "HTTP/1.1, within the grace period", "whole, then it ends")
}

// A client that has shaken hands before a reload, and sends its preface after it,
// is told to go away, so that the old configuration ends.
func TestPrefaceAfterReload(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.StartCaddy(t, harness.FileSite+harness.StockSite)
	config := c.TLSConfig(t, harness.HTTP2)
	config.MaxVersion = tls.VersionTLS12 // the server is ready first
	var conns []*tls.Conn
	for _, site := range []harness.Site{c.Site, c.Stock()} {
		conns = append(conns, site.Dial(t, config))
	}
	c.Reload(t, harness.OffloadSite("all")+harness.StockSite)
	for _, conn := range conns {
		h := harness.NewHTTP2(t, conn, harness.WideWindows())
		h.Wait("GOAWAY", func() bool { return h.GoAway != nil })
	}
	results.Fault(t, "Server life", "A reload between a client's handshake and its HTTP/2 preface", "POST /load",
		"GOAWAY, as from stock Caddy")
}

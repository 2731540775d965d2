package integration_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// What happens to a file during its transfer must not make a body of another
// length, or of another file. TestHTTP2ChangedFile and TestHTTP2ShorterFile do
// the same over HTTP/2.
func TestChangedFile(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	other, after := c.Root.AddFile(t, "other", harness.Large), c.Root.AddFile(t, "after", harness.Large)
	c.Start(t, harness.FileSite)
	path := c.Root.Path("f")
	tests := []struct {
		name   string
		change func() error
		next   *harness.File // what is there afterwards
		fails  bool
	}{
		{"grown", func() error { return os.Truncate(path, 2*harness.Huge) }, nil, false},
		{"replaced by renaming", func() error { return os.Rename(c.Root.Path("after"), path) }, &after, false},
		{"made unreadable and deleted", func() error { return errors.Join(os.Chmod(path, 0), os.Remove(path)) }, nil, false},
		{"emptied", func() error { return os.Truncate(path, 0) }, nil, true},
		{"overwritten with less", func() error { return os.WriteFile(path, other.Content, 0o600) }, &other, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_ = os.Remove(path)
			f := c.Root.AddFile(t, "f", harness.Huge)
			bystander := c.Client(t, nil)
			harness.Warm(t, c, bystander, "/other", other)
			descriptors, before := harness.Descriptors(t, c), c.Metrics(t)
			d := harness.StartDownload(t, c.Site, "/f")
			if sent := c.Metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; sent >= f.Size {
				t.Fatal("the whole file was sent before: the test shows nothing")
			}
			testutil.Must(t, test.change())
			got, err := d.Rest()
			switch {
			case test.fails && err == nil:
				t.Errorf("the body ended after %d bytes as if it were complete", got.Size)
			case test.fails && got != f.Part(0, got.Size):
				t.Errorf("%v are not the beginning of the file", got)
			case !test.fails && (err != nil || got != f.Digest):
				t.Errorf("body has %v, %v, want %v", got, err, f.Digest)
			}
			harness.WantFile(t, bystander, c.URL("/other"), other)
			want, result := harness.SentByKernel(f.Size+other.Size), "whole, as it was opened"
			want["responses:sendfile"]++
			if test.fails {
				want["sendfile_bytes"], want["responses_failed"] = harness.AnyNumber, 1
				result = "the connection ends, so the transfer fails visibly; other connections go on"
			}
			c.Expect(t, before, want)
			harness.WantDescriptors(t, c, descriptors)
			if test.next != nil {
				c.WantFile(t, "/f", *test.next)
			}
			results.Fault(t, "Files", "A file is "+test.name, "during its download over HTTP/1.1", result)
		})
	}
}

// A file that gets shorter while it is sent ends the connection: the client must
// not take what it has got for all of it.
func TestShrinkingFile(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	c.Root.AddFile(t, "f", harness.Huge)
	c.Start(t, harness.FileSite)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	resp, err := client.Get(c.URL("/f"))
	testutil.Must(t, err)
	defer resp.Body.Close()
	_, err = io.CopyN(io.Discard, resp.Body, 100_000)
	testutil.Must(t, err)
	testutil.Must(t, os.Truncate(c.Root.Path("f"), 64<<10))
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil {
		t.Errorf("the body ended after %d more bytes as if it were complete", n)
	}
	testutil.Eventually(t, "the response counts as failed", func() error {
		if c.Metrics(t)["responses_failed"] == before["responses_failed"] {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	results.Fault(t, "Files", "A file is truncated", "during its download over HTTP/1.1", "the connection ends, so the transfer fails visibly")
}

// A file that loses bytes that were promised ends its own stream, by a reset.
func TestHTTP2ShorterFile(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	other := c.Root.AddFile(t, "other.bin", harness.Large)
	c.Start(t, harness.HTTP2Site)
	for _, remains := range []int64{0, 10_000, 12_000, 40_000} {
		t.Run(fmt.Sprint(remains), func(t *testing.T) {
			f := c.Root.AddFile(t, "f.bin", 1<<20)
			descriptors := harness.Descriptors(t, c)
			h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 32 << 10})
			shrinking := []*harness.Stream{h.Get("/f.bin"), h.Get("/f.bin")}
			others := []*harness.Stream{h.Get("/other.bin"), h.Get("/other.bin")}
			for _, s := range append(shrinking, others...) {
				h.Begun(s, 10_000)
			}
			testutil.Must(t, os.Truncate(c.Root.Path("f.bin"), remains))
			h.Widen()
			for _, s := range others {
				h.WantFile(s, other)
			}
			for _, s := range shrinking {
				h.Wait("the stream is reset", func() bool { return s.Reset || s.Ended })
				if !s.Reset {
					t.Error("the stream has ended as if it were whole")
				}
				h.WantPrefix(s, f)
			}
			// What the server has counted against the windows is
			// given back: the default is used up many times.
			for range 3 {
				h.WantFile(h.Get("/other.bin"), other)
			}
			h.Close()
			harness.WantDescriptors(t, c, descriptors)
		})
	}
	results.Fault(t, "Files", "A file is truncated", "during its download over HTTP/2, to several lengths",
		"its stream is reset; the other streams of the connection go on")
}

// A file that is replaced or deleted is sent whole as it was opened; of one that
// grows, what was promised.
func TestHTTP2ChangedFile(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	replaced, deleted := c.Root.AddFile(t, "replaced.bin", 1<<20), c.Root.AddFile(t, "deleted.bin", 1<<20)
	grown, after := c.Root.AddFile(t, "grown.bin", 1<<20), c.Root.AddFile(t, "after", harness.Large)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 32 << 10})
	one, two, three := h.Get("/replaced.bin"), h.Get("/deleted.bin"), h.Get("/grown.bin")
	for _, s := range []*harness.Stream{one, two, three} {
		h.Begun(s, 10_000)
	}
	testutil.Must(t, os.Rename(c.Root.Path("after"), c.Root.Path("replaced.bin")))
	testutil.Must(t, os.Remove(c.Root.Path("deleted.bin")))
	testutil.Must(t, os.Truncate(c.Root.Path("grown.bin"), 3<<20))
	testutil.Must(t, os.Chmod(c.Root.Path("grown.bin"), 0))
	h.Widen()
	h.WantFile(one, replaced)
	h.WantFile(two, deleted)
	h.WantFile(three, grown)
	h.WantFile(h.Get("/replaced.bin"), after)
	h.Close()
	c.Expect(t, before, harness.Sent(replaced, deleted, grown, after))
	results.Fault(t, "Files", "A file is replaced by renaming, deleted, or grown and made unreadable", "during its download over HTTP/2",
		"whole, as it was opened")
}

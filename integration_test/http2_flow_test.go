package integration_test

import (
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
)

// The client fails if the server does not keep to its windows and frame size.
func TestHTTP2FlowControl(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f, typed := c.Root.AddFile(t, "f", harness.Large), c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, harness.HTTP2Site)
	tests := []struct {
		name    string
		windows harness.Windows
	}{
		{"stream opened by 1", harness.Windows{Initial: 1, MaxFrame: 16384, Stream: 1, Connection: 1 << 20}},
		{"connection opened by 1", harness.Windows{Initial: 1 << 20, MaxFrame: 16384, Connection: 1}},
		{"stream 0, opened by 999", harness.Windows{MaxFrame: 16384, Stream: 999, Connection: 1 << 20}},
		{"stream 16383", harness.Windows{Initial: 16383, MaxFrame: 16384, Stream: 16383, Connection: 1 << 20}},
		{"stream 16384", harness.Windows{Initial: 16384, MaxFrame: 16384, Stream: 16384, Connection: 1 << 20}},
		{"stream 16385", harness.Windows{Initial: 16385, MaxFrame: 16384, Stream: 16385, Connection: 1 << 20}},
		{"stream 65535, opened by 12345", harness.Windows{Initial: 65535, MaxFrame: 16384, Stream: 12345, Connection: 32 << 10}},
		{"connection opened by 4099", harness.Windows{Initial: 1 << 20, MaxFrame: 16384, Connection: 4099}},
		{"frames 20000", harness.Windows{Initial: 65535, MaxFrame: 20000, Stream: 30001, Connection: 40001}},
		{"frames 1 MiB", harness.Windows{Initial: 1 << 20, MaxFrame: 1 << 20, Stream: 1 << 20, Connection: 1 << 20}},
		{"frames 16 MiB", harness.Windows{Initial: 1<<31 - 1, MaxFrame: 1<<24 - 1, Connection: 1 << 24}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := c.Metrics(t)
			h := harness.OpenHTTP2(t, c.Site, test.windows)
			one, other := h.Get("/f"), h.Get("/f.bin")
			if test.windows.Stream == 1 || test.windows.Connection == 1 {
				// So small for a while only.
				h.Wait("some bytes have come", func() bool {
					return len(one.Body)+len(other.Body) >= min(int(test.windows.Initial), harness.InitialWindow)+500
				})
				h.Widen()
			}
			h.WantFile(one, f)
			h.WantFile(other, typed)
			h.Close()
			c.Expect(t, before, harness.Sent(f, typed))
		})
	}
}

// The initial window may change at any time, and leave streams a window that is
// negative; so may the size of frames.
func TestHTTP2SettingsOnTheWay(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f, typed := c.Root.AddFile(t, "f", 1<<20), c.Root.AddFile(t, "f.bin", 1<<20)
	c.Start(t, harness.HTTP2Site)
	before := c.Metrics(t)
	h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 10_000, MaxFrame: 16384, Connection: 1 << 20})
	one, other := h.Get("/f"), h.Get("/f.bin")
	for _, change := range []struct{ initial, maxFrame uint32 }{
		{30_001, 16384}, {5, 20_000}, {40_000, 1 << 20}, {100_000, 16384}, {0, 1<<24 - 1}, {100_001, 16385}, {2 << 20, 16384},
	} {
		h.Wait("the windows are used up", func() bool { return one.Window <= 0 && other.Window <= 0 })
		h.Configure(http2.Setting{ID: http2.SettingInitialWindowSize, Val: change.initial},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: change.maxFrame})
		h.Settled()
	}
	h.WantFile(one, f)
	h.WantFile(other, typed)
	h.Close()
	c.Expect(t, before, harness.Sent(f, typed))
}

// Settings are acknowledged also if they come with the request for the first file.
func TestHTTP2SettingsBesideFile(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f.bin", harness.Large)
	c.Start(t, harness.HTTP2Site)
	for range 10 {
		h := harness.OpenHTTP2(t, c.Site, harness.Windows{Initial: 1000, MaxFrame: 16384, Connection: 1 << 20})
		s := h.Get("/f.bin")
		h.Settled()
		h.Begun(s, 1000)
		h.Configure(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		h.Settled()
		h.WantFile(s, f)
		h.Close()
	}
}

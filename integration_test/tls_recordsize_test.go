package integration_test

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A recordRelay passes on connections to a site, and notes how long the records of the
// site's application data are.
type recordRelay struct {
	harness.Site // as a client finds it

	mu      sync.Mutex // guards longest
	longest int        // content of a record, in bytes, with the type that TLS 1.3 adds
}

func newRecordRelay(t testing.TB, s harness.Site) *recordRelay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testutil.Must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	r := &recordRelay{Site: s}
	_, r.Port, err = net.SplitHostPort(l.Addr().String())
	testutil.Must(t, err)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := s.TryTCP()
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.CloseWrite()
			}()
			go func() {
				_ = r.pass(client, server)
				_ = client.Close()
				_ = server.Close()
			}()
		}
	}()
	return r
}

// pass passes records on until one of the ends closes.
func (r *recordRelay) pass(client io.Writer, server io.Reader) error {
	const headerLen, tag = 5, 16
	for {
		var header [headerLen]byte
		if _, err := io.ReadFull(server, header[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(header[3:]))
		if header[0] == harness.ApplicationData {
			r.mu.Lock()
			r.longest = max(r.longest, n-tag)
			r.mu.Unlock()
		}
		if _, err := client.Write(header[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(client, server, int64(n)); err != nil {
			return err
		}
	}
}

// take returns the length of the longest record since it was last called.
func (r *recordRelay) take() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.longest = 0 }()
	return r.longest
}

// Small devices ask for short records. crypto/tls takes no note of that, and neither does
// the kernel, so they get from the module what they get from stock Caddy.
func TestClientsThatWantShortRecords(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	const short, long = 4<<10 + 1, 16<<10 + 1 // with the type
	for _, offload := range []string{"large", "all"} {
		c := harness.NewCaddy(t)
		// net/http writes 4 KiB at a time, as long as it has not seen the end.
		small, medium := c.Root.AddFile(t, "small", 7_500), c.Root.AddFile(t, "medium", 10_000)
		large := c.Root.AddFile(t, "large", 128<<10) // is offloaded
		c.Start(t, harness.OffloadSite(offload)+harness.StockSite)
		for name, site := range map[string]*recordRelay{"module": newRecordRelay(t, c.Site), "stock": newRecordRelay(t, c.Stock())} {
			for _, client := range []struct {
				program *harness.Program
				args    []string
			}{
				{harness.OpenSSL, []string{"-maxfraglen", "4096"}},
				{harness.GnuTLS, []string{"--recordsize", "4096"}},
			} {
				if name == "stock" && client.program == harness.GnuTLS {
					continue // it prints every byte by a system call of its own
				}
				t.Run(offload+" "+name+" "+client.program.Name, func(t *testing.T) {
					p := harness.Connect(t, site.Site, client.program, "localhost", harness.SuiteByID(tls.TLS_AES_128_GCM_SHA256), client.args...)
					site.take() // the handshake's
					p.WantFile(t, "/small", small)
					if n := site.take(); n > short {
						t.Errorf("%d bytes: a record of %d", small.Size, n)
					}
					p.WantFile(t, "/medium", medium)
					if n := site.take(); n <= short {
						t.Errorf("%d bytes: records of at most %d", medium.Size, n)
					}
					p.WantFile(t, "/large", large)
					if n := site.take(); n != long {
						t.Errorf("%d bytes: records of at most %d, want %d", large.Size, n, long)
					}
					p.Leave(t)
				})
			}
		}
	}
	results.Fault(t, "Clients", "client that asks for records of at most 4 KiB",
		"openssl with max_fragment_length, gnutls-cli with record_size_limit; HTTP/1.1, offload large and all",
		"ignored, as by stock Caddy: responses of more than 8 KiB come in longer records")
}

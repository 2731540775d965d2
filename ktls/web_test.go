package ktls

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A web is an http.Server with a listener of this package.
type web struct {
	*http.Server
	ln      *Listener
	address string
	done    chan struct{} // closed when Serve has returned
}

// newWeb serves TLS connections of s.
func newWeb(t testing.TB, s *Server, handler http.HandlerFunc) *web {
	t.Helper()
	inner := testutil.Listen(t)
	w := &web{
		Server:  &http.Server{Handler: handler, TLSConfig: s.config, ErrorLog: log.New(io.Discard, "", 0)},
		ln:      s.Listener(inner),
		address: inner.Addr().String(),
		done:    make(chan struct{}),
	}
	return w
}

func (w *web) serve(t testing.TB, serve func(net.Listener) error) {
	t.Helper()
	go func() {
		defer close(w.done)
		if err := serve(w.ln); !errors.Is(err, http.ErrServerClosed) {
			t.Error("Serve:", err)
		}
	}()
	t.Cleanup(func() { w.Close(); <-w.done })
}

// webClient is an http.Client, as a browser is one, with a configuration.
func webClient(t testing.TB, config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testTimeout}
}

func (w *web) get(t testing.TB, client *http.Client) (*http.Response, []byte) {
	t.Helper()
	response, err := client.Get("https://" + w.address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error("body:", err)
	}
	return response, body
}

// webKernels are the cases of kernels that a web may have below it.
var webKernels = []struct {
	name    string
	mode    mode
	support bool
}{
	{"no kernel TLS", onDemand, false},
	{"on demand", onDemand, true},
	{"all", offloadAll, true},
}

func eachKernel(t *testing.T, config func() *tls.Config, f func(t *testing.T, s *fakeServer)) {
	for _, tt := range webKernels {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, config(), tt.mode, nil)
			if !tt.support {
				s.support = Support{}
			}
			f(t, s)
		})
	}
}

// wantFile checks that the kernel has sent n bytes of files, if there is one.
func (s *fakeServer) wantFile(t testing.TB, n int, bySendfile bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.support.Any() {
		if s.last != nil {
			t.Error("a kernel without kernel TLS was used")
		}
		return
	}
	counts := s.last.Counts()
	// net/http writes the first 512 bytes of each file, and the next are the proof.
	if bySendfile && counts.Files < int64(n)-4*proofLen || !bySendfile && counts.Files > 0 {
		t.Errorf("the kernel sent %d bytes by sendfile, of %d", counts.Files, n)
	}
	// The first write has no more than net/http's buffer.
	if s.options.OffloadAll && counts.Sent < int64(n)-4096 {
		t.Errorf("the kernel sent %d bytes, of %d", counts.Sent, n)
	}
}

var _ net.Listener = (*Listener)(nil)

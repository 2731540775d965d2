package integration_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// soakSites have certificates that are renewed every 15 seconds.
const soakSites = `
{
	servers 127.0.0.1:{$PORT2} {
		listener_wrappers {
			ktls {
				offload all
			}
		}
	}
	renew_interval 1s
	log {
		exclude http.handlers http.log http.stdlib
	}
}
(files) {
	tls {
		issuer internal {
			lifetime 2m
		}
		renewal_window_ratio 0.87
	}
	ktls
	header Configuration NUMBER
	root {$ROOT}
	file_server
}
https://localhost:{$PORT} {
	import files
}
https://localhost:{$PORT2} {
	import files
}`

// A soak is what clients of all kinds do to a server, and what they have seen.
type soak struct {
	t     *testing.T
	c     *harness.Caddy
	seed  uint64
	files []harness.File

	requests, whole, wholeBytes, canceled, refused atomic.Int64

	mu             sync.Mutex
	serials        map[string]bool // of certificates
	configurations map[string]bool
}

// A soakClient asks for one thing after the other.
type soakClient struct {
	*soak
	random  *rand.Rand
	clients []*http.Client
}

// Random clients, among them many that go away in the middle, see the right
// bytes for as long as it takes, while configurations and certificates change;
// and nothing piles up in the server.
func TestSoak(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	duration, seed := time.Duration(harness.ShortOrLong(40, 3600))*time.Second, rand.Uint64()
	if text := os.Getenv("KTLS_SOAK"); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		testutil.Must(t, err)
	}
	if text := os.Getenv("KTLS_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		testutil.Must(t, err)
	}
	t.Logf("KTLS_SEED=%d", seed)
	s := &soak{t: t, c: harness.NewCaddy(t), seed: seed, serials: map[string]bool{}, configurations: map[string]bool{}}
	for i, size := range []int64{1000, 30_000, harness.MinSize, harness.Large, 2 << 20} {
		s.files = append(s.files, s.c.Root.AddFile(t, fmt.Sprint(i), size))
	}
	s.c.Start(t, s.configuration(0))

	warm := duration / 8
	s.run(warm, 1) // what is made once is made before it is counted
	before, counted := harness.ResourcesOf(t, s.c), s.c.Metrics(t)
	s.whole.Store(0)
	s.wholeBytes.Store(0)
	reloads := s.run(duration-warm, 100)
	t.Logf("%d requests: %d bodies whole, %d canceled, %d refused; %d configurations, %d certificates, %d reloads",
		s.requests.Load(), s.whole.Load(), s.canceled.Load(), s.refused.Load(), len(s.configurations), len(s.serials), reloads)
	harness.WantReturned(t, s.c, before)
	if now := harness.RSS(t, s.c); now > 2*before.RSS+64<<20 {
		t.Errorf("the process has %d bytes of memory, before %d", now, before.RSS)
	}
	now := s.c.Metrics(t)
	for name, n := range now {
		switch name {
		case "connections:offloaded", "connections:not_needed", "connections:closing", "responses:sendfile", "responses:closing",
			"sendfile_bytes", "responses_failed", "connections_lost", harness.KernelTaken:
		default:
			if n > counted[name] {
				t.Errorf("%s has changed by %d", name, n-counted[name])
			}
		}
	}
	if n := now["responses:sendfile"] - counted["responses:sendfile"]; n < s.whole.Load() || n == 0 {
		t.Errorf("%d responses by sendfile, %d large bodies have come whole", n, s.whole.Load())
	}
	if n := now["sendfile_bytes"] - counted["sendfile_bytes"]; n < s.wholeBytes.Load()-s.whole.Load()*harness.NotByKernel {
		t.Errorf("%d bytes by sendfile, %d bytes of large bodies have come", n, s.wholeBytes.Load())
	}
	if len(s.configurations) < 3 || len(s.serials) < 2 || s.canceled.Load() == 0 {
		t.Error("the soak shows too little")
	}
	results.Fault(t, "Load", "Random requests, ranges and cancels for long, with reloads and renewed certificates",
		"HTTP/1.1 and HTTP/2, TLS 1.2 and 1.3; 40 s, an hour in the long form",
		"every body right, the canceled ones as far as they came; memory, goroutines, descriptors as before")
}

func (s *soak) configuration(number int) string {
	return harness.Replaced(s.t, soakSites, "NUMBER", fmt.Sprint(number))
}

// run has clients work for so long, and until they have seen another certificate.
// It replaces the configuration every few seconds, and returns how often.
func (s *soak) run(duration time.Duration, first int) (reloads int) {
	const clients = 8
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	var all sync.WaitGroup
	for i := range clients {
		client := s.client(uint64(first+i), harness.Protocols[i%2])
		all.Go(func() {
			for ctx.Err() == nil && !s.t.Failed() {
				client.next()
			}
			client.closeAll()
		})
	}
	random := rand.New(rand.NewPCG(s.seed, 0))
	certificates, refused := s.certificates(), s.refused.Load()
	end := time.Now().Add(duration)
	for late := end.Add(testutil.Patience); !s.t.Failed(); {
		time.Sleep(min(time.Duration(500+random.IntN(4000))*time.Millisecond, max(time.Until(end), 100*time.Millisecond)))
		s.c.Reload(s.t, s.configuration(first+reloads))
		reloads++
		if now := time.Now(); now.After(end) && s.certificates() > certificates || now.After(late) {
			break
		}
	}
	stop()
	all.Wait()
	// A reload may meet a request of each client; net/http drops it then,
	// with Caddy's own listener as with ours.
	if n := s.refused.Load() - refused; n > int64(clients*reloads) {
		s.t.Errorf("%d requests were not answered, with %d reloads", n, reloads)
	}
	return reloads
}

func (s *soak) certificates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.serials)
}

// client returns a client with connections of either version of TLS, some of
// which take little at a time.
func (s *soak) client(number uint64, protocol string) *soakClient {
	client := &soakClient{soak: s, random: rand.New(rand.NewPCG(s.seed, number))}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := s.c.TLSConfig(s.t)
		config.NextProtos, config.MaxVersion = []string{protocol}, version
		config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		client.clients = append(client.clients, s.c.Client(s.t, config), s.c.NarrowClient(s.t, config.Clone()))
	}
	return client
}

func (s *soakClient) closeAll() {
	for _, client := range s.clients {
		client.CloseIdleConnections()
	}
}

// next sends a request, and reads all of the response or only some.
func (s *soakClient) next() {
	s.requests.Add(1)
	number := s.random.IntN(len(s.files))
	f := s.files[number]
	client := s.clients[s.random.IntN(len(s.clients))]
	if s.random.IntN(8) == 0 {
		client.CloseIdleConnections()
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), testutil.Patience)
	defer cancel()
	port := s.c.Getenv([]string{"PORT", "PORT2"}[s.random.IntN(2)])
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://localhost:%s/%d", port, number), nil)
	if err != nil {
		s.t.Error(err)
		return
	}
	from, to := int64(0), f.Size
	if s.random.IntN(3) == 0 {
		from = s.random.Int64N(f.Size)
		to = from + 1 + s.random.Int64N(f.Size-from)
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	wanted := to - from
	switch s.random.IntN(6) {
	case 0: // leave after so many bytes
		wanted = s.random.Int64N(wanted)
	case 1: // leave at any moment
		timer := time.AfterFunc(time.Duration(s.random.IntN(100))*time.Millisecond, cancel)
		defer timer.Stop()
	}
	what := fmt.Sprintf("%s, bytes %d to %d, %d of them", r.URL, from, to, wanted)
	resp, err := client.Do(r)
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			s.canceled.Add(1)
		} else {
			s.refused.Add(1)
			s.t.Logf("%s: %v", what, err)
		}
		return
	}
	defer resp.Body.Close()
	s.saw(resp)
	body := &harness.Comparison{Rest: f.Content[from:to]}
	_, err = io.CopyN(body, resp.Body, wanted)
	if err == nil && wanted == to-from {
		_, err = io.Copy(body, resp.Body) // to its end
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled) && !errors.Is(err, harness.ErrDiffers):
		s.canceled.Add(1)
	case err != nil:
		s.t.Errorf("%s: %v, after %d bytes", what, err, to-from-int64(len(body.Rest)))
	case wanted < to-from:
		s.canceled.Add(1)
	case wanted >= harness.MinSize:
		s.whole.Add(1)
		s.wholeBytes.Add(wanted)
	}
}

func (s *soakClient) saw(resp *http.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !resp.TLS.DidResume {
		s.serials[resp.TLS.PeerCertificates[0].SerialNumber.String()] = true
	}
	s.configurations[resp.Header.Get("Configuration")] = true
}

package ktls

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A handler learns who the client is, and what was negotiated.
func TestRequestTLS(t *testing.T) {
	config := func() *tls.Config {
		c := serverConfig()
		c.ClientAuth = tls.RequireAnyClientCert
		return c
	}
	eachKernel(t, config, func(t *testing.T, s *fakeServer) {
		body := testutil.Body(200_000)
		name := testutil.OpenFile(t, body).Name()
		w := newWeb(t, s.Server, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("State", describeState(r.TLS))
			http.ServeFile(w, r, name)
		})
		w.serve(t, w.Serve)
		own := clientConfig()
		identified(own)
		client := webClient(t, own)
		for range 2 { // on one connection
			response, got := w.get(t, client)
			testutil.SameBody(t, got, body)
			// Both sides have the same certificate.
			want := describeState(response.TLS)
			if state := response.Header.Get("State"); state != want {
				t.Errorf("the handler sees %q, want %q", state, want)
			}
		}
		s.wantFile(t, 2*len(body), true)
	})
}

func describeState(state *tls.ConnectionState) string {
	if state == nil || !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return "unfinished"
	}
	return fmt.Sprintf("%s %s %q %s %.8x", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite),
		state.NegotiatedProtocol, state.ServerName, sha256.Sum256(state.PeerCertificates[0].Raw))
}

// acmeConfig is like the configurations of golang.org/x/crypto/acme/autocert and
// certmagic.
func acmeConfig() *tls.Config {
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			certificate := testCertificate()
			return &certificate, nil
		},
		NextProtos: []string{protocolHTTP2, "http/1.1", "acme-tls/1"},
	}
}

// HTTP/2 is negotiated if net/http can speak it on such a connection, however the
// configuration comes about. Either way large files arrive whole.
func TestHTTP2(t *testing.T) {
	chosen := func() *tls.Config {
		c := serverConfig()
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return acmeConfig(), nil }
		c.NextProtos = []string{protocolHTTP2} // for http.Server
		return c
	}
	for name, config := range map[string]func() *tls.Config{"acme": acmeConfig, "GetConfigForClient": chosen} {
		t.Run(name, func(t *testing.T) {
			eachKernel(t, config, func(t *testing.T, s *fakeServer) {
				body := testutil.Body(3_000_000)
				name := testutil.OpenFile(t, body).Name()
				w := newWeb(t, s.Server, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Spoken", r.Proto)
					w.Header().Set("Negotiated", r.TLS.NegotiatedProtocol)
					http.ServeFile(w, r, name)
				})
				w.serve(t, w.Serve)
				want, negotiated := "HTTP/1.1", "http/1.1"
				if http2OnAnyConn {
					want, negotiated = "HTTP/2.0", "h2"
				}
				client := webClient(t, clientConfig())
				for range 2 {
					response, got := w.get(t, client)
					testutil.SameBody(t, got, body)
					if h := response.Header; response.Proto != want || h.Get("Spoken") != want || h.Get("Negotiated") != negotiated {
						t.Errorf("client speaks %s, server %q, negotiated is %q; want %s", response.Proto, h.Get("Spoken"), h.Get("Negotiated"), want)
					}
				}
				s.wantFile(t, 2*len(body), !http2OnAnyConn)

				// Without offering HTTP/2.
				for offer, want := range map[string]string{"acme-tls/1": "acme-tls/1", "http/1.1": "http/1.1", "": ""} {
					own := clientConfig()
					if offer != "" {
						own.NextProtos = []string{offer}
					}
					conn, err := tls.Dial("tcp", w.address, own)
					if err != nil {
						t.Fatal(err)
					}
					if got := conn.ConnectionState().NegotiatedProtocol; got != want {
						t.Errorf("negotiated %q, want %q", got, want)
					}
					conn.Close()
				}
			})
		})
	}
}

// Whoever makes connections without a listener may speak HTTP/2 by himself.
func TestHTTP2WithoutListener(t *testing.T) {
	eachKernel(t, acmeConfig, func(t *testing.T, s *fakeServer) {
		own := clientConfig()
		own.NextProtos = []string{protocolHTTP2}
		conn, client, _ := s.connect(t, own)
		transfer(t, conn, client, testutil.Body(70_000))
		if got := conn.ConnectionState().NegotiatedProtocol; got != protocolHTTP2 {
			t.Errorf("negotiated %q", got)
		}
		if want := []string{protocolHTTP2, "http/1.1", "acme-tls/1"}; !slices.Equal(s.config.NextProtos, want) {
			t.Errorf("the configuration has %q now", s.config.NextProtos)
		}
	})
}

// TLS within TLS fails at once, and says something.
func TestServeTLS(t *testing.T) {
	eachKernel(t, serverConfig, func(t *testing.T, s *fakeServer) {
		w := newWeb(t, s.Server, func(http.ResponseWriter, *http.Request) { t.Error("a request was served") })
		w.serve(t, func(ln net.Listener) error { return w.ServeTLS(ln, "", "") })
		response, body := w.get(t, webClient(t, clientConfig()))
		if want := "Client sent an HTTP request to an HTTPS server.\n"; response.StatusCode != http.StatusBadRequest || string(body) != want {
			t.Errorf("%s: %q", response.Status, body)
		}
	})
}

// A handshake that doesn't come to an end serves no request, and nothing is
// answered to what is no TLS but by net/http's own words.
func TestNoHandshake(t *testing.T) {
	const refused = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	for _, tt := range []struct {
		name, sent, plainAnswer string
		bound                   time.Duration
	}{
		{name: "nothing", bound: 100 * time.Millisecond},
		{name: "half of a record", sent: "\x16\x03\x01\x02\x00\x01", bound: 100 * time.Millisecond},
		{name: "plain HTTP", sent: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", plainAnswer: refused, bound: 2 * testTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachKernel(t, serverConfig, func(t *testing.T, s *fakeServer) {
				s.options.HandshakeTimeout = tt.bound
				w := newWeb(t, s.Server, func(http.ResponseWriter, *http.Request) { t.Error("a request was served") })
				w.ReadHeaderTimeout = tt.bound // counts where net/http runs the handshake
				w.serve(t, w.Serve)
				raw, err := net.Dial("tcp", w.address)
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				_ = raw.SetDeadline(time.Now().Add(testTimeout))
				if _, err := io.WriteString(raw, tt.sent); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(raw)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection stays open")
				}
				want := ""
				if http2OnAnyConn {
					want = tt.plainAnswer
				}
				if string(answer) != want {
					t.Errorf("answer %q, want %q", answer, want)
				}
			})
		})
	}
}

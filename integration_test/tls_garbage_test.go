package integration_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const fatalAlert = "fatal alert"

// garbage is what a client must not send.
var garbage = []struct {
	what  string
	bytes func(r *harness.RecordClient) []byte
	ends  string
}{
	{"bytes that are no record", func(*harness.RecordClient) []byte { return bytes.Repeat([]byte{0xff, 0x5a}, 50) },
		"tls: protocol version not supported"},
	{"record with a bad MAC", func(r *harness.RecordClient) []byte {
		record := r.Data("GET ")
		record[len(record)-1] ^= 1
		return record
	}, "tls: bad record MAC"},
	{"record that is sent again", func(r *harness.RecordClient) []byte {
		r.Number--
		return r.Data("GET ")
	}, "tls: bad record MAC"},
	{"record of an unknown type", func(*harness.RecordClient) []byte { return []byte{99, 3, 3, 0, 4, 'd', 'a', 't', 'a'} },
		"tls: bad record MAC"},
	{"encrypted record of an unknown type", func(r *harness.RecordClient) []byte { return r.Record(99, []byte("data"), 0) },
		"tls: unexpected message"},
	{"record without a type", func(r *harness.RecordClient) []byte { return r.Record(0, nil, 10) }, "tls: unexpected message"},
	{"record that is too long", func(*harness.RecordClient) []byte { return []byte{harness.ApplicationData, 3, 3, 0x41, 0x01} },
		"tls: record overflow"},
	{"record with too much content", func(r *harness.RecordClient) []byte { return r.Data(strings.Repeat("a", 1<<14+1)) },
		"tls: record overflow"},
	{"record without encryption", func(*harness.RecordClient) []byte {
		return []byte{harness.ApplicationData, 3, 3, 0, 4, 'd', 'a', 't', 'a'}
	},
		"tls: bad record MAC"},
	{"alert without encryption", func(*harness.RecordClient) []byte { return []byte{harness.Alert, 3, 3, 0, 2, 2, 80} },
		"tls: bad record MAC"},
	{"alert of a wrong length", func(r *harness.RecordClient) []byte { return r.Record(harness.Alert, []byte{2}, 0) }, "tls: unexpected message"},
	{fatalAlert, func(r *harness.RecordClient) []byte { return r.Record(harness.Alert, []byte{2, 80}, 0) }, "close_notify"},
	{"second ClientHello", func(r *harness.RecordClient) []byte {
		return r.Record(harness.HandshakeMessage, append([]byte{1, 0, 0, 38, 3, 3}, make([]byte, 36)...), 0)
	}, "tls: unexpected message"},
	{"handshake message that is too long", func(r *harness.RecordClient) []byte {
		return r.Record(harness.HandshakeMessage, []byte{1, 0xff, 0xff, 0xff}, 0)
	}, "tls: internal error"},
	{"empty handshake record", func(r *harness.RecordClient) []byte { return r.Record(harness.HandshakeMessage, nil, 0) },
		"tls: unexpected message"},
	{"KeyUpdate with an unknown request", func(r *harness.RecordClient) []byte {
		return r.Record(harness.HandshakeMessage, []byte{24, 0, 0, 1, 7}, 0)
	}, "tls: error decoding message"},
}

func TestGarbageAfterHandshake(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.MinSize+100, harness.BothSites())
	before, want := c.Metrics(t), harness.Counts{}
	for i, test := range garbage {
		for _, protocol := range harness.Protocols {
			if protocol == harness.HTTP2 && i%4 != 1 && !harness.Long() {
				continue
			}
			t.Run(test.what+", "+protocol, func(t *testing.T) {
				ended := func(site harness.Site) string {
					r := harness.OpenRecords(t, site, protocol)
					first := r.Get("/f").Is(f)
					_, err := r.Raw.Write(test.bytes(r))
					testutil.Must(t, err)
					return first + ", then " + r.End()
				}
				if protocol == harness.HTTP2 {
					// The server closes the connection at once, and
					// the alert may be lost.
					if result := ended(c.Site); !strings.HasPrefix(result, "whole, then ") {
						t.Error(result)
					}
					return
				}
				result := c.SameAsStock(t, ended)
				if !strings.HasPrefix(result, "whole, then ") || !strings.HasSuffix(result, test.ends) {
					t.Errorf("%s, want that it ends by %s", result, test.ends)
				}
			})
			for name, n := range harness.SentByKernel(f.Size) {
				want[name] += n
			}
		}
	}
	c.Expect(t, before, want)
	results.Fault(t, "Clients", "garbage after the handshake", "records with a bad MAC, of unknown type, too long, not encrypted, out of place",
		"connection ended, over HTTP/1.1 by the alert that stock Caddy sends")
}

// A fatal error of the client's in the middle of a body ends the body.
func TestGarbageDuringDownload(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	c, f := harness.StartWithFile(t, harness.Huge, harness.BothSites())
	for i, test := range garbage {
		if i%4 != 1 && !harness.Long() {
			continue
		}
		for _, protocol := range harness.Protocols {
			t.Run(test.what+", "+protocol, func(t *testing.T) {
				before := c.Metrics(t)
				// The alert may be lost over HTTP/2, whose server closes
				// the connection at once.
				result := c.SameAsStock(t, func(site harness.Site) string {
					return harness.OpenRecords(t, site, protocol).During("/f", test.bytes).IsCut(t, f)
				})
				want := harness.Counts{"connections:offloaded": 1, "responses:sendfile": 1, "responses_failed": 1, "sendfile_bytes": harness.AnyNumber}
				if test.what == fatalAlert && protocol == harness.HTTP1 {
					// net/http writes on, as it does after FIN.
					want = harness.SentByKernel(f.Size)
				} else if result != "cut" {
					t.Error(result)
				}
				c.Expect(t, before, want)
			})
		}
	}
	results.Fault(t, "Clients", "garbage during a download", "the same records in the middle of a body", "cut, as by stock Caddy")
}

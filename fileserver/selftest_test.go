package fileserver

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// If this fails, this version of Go, x/net or Caddy is not what the module builds on,
// and it will copy.
func TestSelfTest(t *testing.T) {
	if faults := SelfTest(); len(faults) > 0 {
		t.Error(faults)
	}
	if http1Trust.lost.Load() || http2Trust.lost.Load() {
		t.Error("distrusted")
	}
}

// What a second try does not find is no fault: the process may have been stopped
// while the first one waited.
func TestSelfTestTriesAgain(t *testing.T) {
	fault, other := Fault{"HTTP/1.1", noAnswer, true}, Fault{"HTTP/2", noStream, true}
	for _, tt := range []struct {
		name string
		runs [][]Fault
		want []Fault
	}{
		{"none", [][]Fault{nil}, nil},
		{"once", [][]Fault{{fault}, nil}, nil},
		{"twice", [][]Fault{{fault}, {fault}}, []Fault{fault}},
		{"one of two", [][]Fault{{fault, other}, {other}}, []Fault{other}},
		{"another", [][]Fault{{fault}, {other}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runs := tt.runs
			got := confirmed(func() (faults []Fault) {
				faults, runs = runs[0], runs[1:]
				return faults
			})
			if !slices.Equal(got, tt.want) || len(runs) > 0 {
				t.Errorf("got %v, want %v; %d runs too few", got, tt.want, len(runs))
			}
		})
	}
}

type unknownWriter struct{ http.ResponseWriter }

// Each assumption, when it does not hold, is found out, and no other is blamed.
func TestSelfTestFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(s *selfTest)
		want  []Fault
	}{
		{"net/http copies", func(s *selfTest) {
			s.between = func(c net.Conn) net.Conn {
				return alteredConn{c, writerFunc(func(p []byte) (int, error) { return c.Write(bytes.Clone(p)) })}
			}
		}, []Fault{{"HTTP/1.1", writesAltered, true}}},
		{"net/http cuts", func(s *selfTest) {
			s.between = func(c net.Conn) net.Conn {
				return alteredConn{c, writerFunc(func(p []byte) (n int, err error) {
					for part := range slices.Chunk(p, 4096) {
						m, writeErr := c.Write(part)
						n, err = n+m, writeErr
					}
					return n, err
				})}
			}
		}, []Fault{{"HTTP/1.1", writesAltered, true}}},
		{"the local address is another", func(s *selfTest) {
			s.between = func(c net.Conn) net.Conn { return otherAddress{c} }
		}, []Fault{{"HTTP/1.1", noConnection, true}, {"HTTP/2", noConnection, true}}},
		{"another writer", func(s *selfTest) {
			s.bottomOf = func(w http.ResponseWriter) http.ResponseWriter { return bottomOf(unknownWriter{w}) }
		}, []Fault{{"HTTP/1.1", writerUnknown, true}, {"HTTP/2", writerUnknown, true}}},
		{"another writer between", func(s *selfTest) {
			s.idle = func(w http.ResponseWriter) *caddyhttp.IdleTimeoutWriter {
				return newSelfTest().idle(unknownWriter{w})
			}
		}, []Fault{{"HTTP/1.1", writerUnknown, true}, {"HTTP/2", writerUnknown, true}}},
		{"the idle timeouts can't be led to another writer", func(s *selfTest) {
			s.wrap = func(*caddyhttp.IdleTimeoutWriter, *http.Request) (http.ResponseWriter, *Response) {
				idle := newSelfTest().idle(new(standInWriter))
				return idle, new(Response)
			}
		}, []Fault{{"HTTP/1.1", writerIgnored, true}, {"HTTP/2", writerIgnored, true}}},
		{"a part is all that may be sent", func(s *selfTest) { s.takesMore = func() bool { return false } },
			[]Fault{{"HTTP/1.1", noMore, false}}},
		{"no stream", func(s *selfTest) {
			s.streamID = func(http.ResponseWriter) uint32 { return streamID(new(standInWriter)) }
		}, []Fault{{"HTTP/2", noStream, true}}},
		{"another stream", func(s *selfTest) {
			s.streamID = func(w http.ResponseWriter) uint32 { return streamID(w) + 2 }
		}, []Fault{{"HTTP/2", noStream, true}}},
		{"a panic", func(s *selfTest) {
			s.streamID = func(http.ResponseWriter) uint32 { panic("changed") }
		}, []Fault{{"HTTP/2", noStream, true}}},
		{"no answer", func(s *selfTest) {
			s.patience = 100 * time.Millisecond
			s.between = func(c net.Conn) net.Conn { return silent{c} }
		}, []Fault{{"HTTP/1.1", noAnswer, true}, {"HTTP/2", noAnswer, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSelfTest()
			tt.spoil(s)
			if got := s.run(); !slices.Equal(got, tt.want) {
				t.Errorf("got %v\nwant %v", got, tt.want)
			}
		})
	}
}

// otherAddress is a connection whose local address net/http has from elsewhere.
type otherAddress struct{ net.Conn }

func (otherAddress) LocalAddr() net.Addr { return new(net.TCPAddr) }

// silent is a connection on which nothing comes until it is closed.
type silent struct{ net.Conn }

func (c silent) Read([]byte) (int, error) {
	p := make([]byte, 4096)
	for {
		if _, err := c.Conn.Read(p); err != nil {
			return 0, err
		}
	}
}

// Nothing of a self-test is left.
func TestSelfTestLeavesNothing(t *testing.T) {
	running := func() (n int) {
		buf := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "net/http") || strings.Contains(stack, "selfTest") {
				n++
			}
		}
		return n
	}
	before := running()
	for range 10 {
		newSelfTest().run()
	}
	testutil.Eventually(t, "nothing is left", func() error {
		if n := running(); n > before {
			return fmt.Errorf("%d goroutines more", n-before)
		}
		return nil
	})
}

func BenchmarkSelfTest(b *testing.B) {
	for b.Loop() {
		newSelfTest().run()
	}
}

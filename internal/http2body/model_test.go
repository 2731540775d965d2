package http2body

import (
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// newModel returns a client of a server.
func newModel(t testing.TB, name, server string, site *modelSite, seed uint64, writing func(frames int) error) *modelClient {
	client, conn := serve(t, server, writing, site.handle)
	m := &modelClient{
		t: t, name: name, random: mathrand.New(mathrand.NewPCG(seed, 1)), conn: client, server: conn,
		reads: http2.NewFramer(nil, client), header: hpack.NewDecoder(4096, nil),
		queue:  make(chan []byte, 1<<20),
		window: initialWindow, policy: atOnce, size: initialWindow, acked: initialWindow,
		streams: map[uint32]*modelStream{}, answers: map[uint64]func(){},
	}
	go func() {
		for b := range m.queue {
			if _, err := client.Write(b); err != nil {
				return
			}
		}
	}()
	m.queue <- []byte(http2.ClientPreface)
	return m
}

// finish runs the client, and fails the test if it hangs.
func (m *modelClient) finish() {
	m.t.Helper()
	failed := make(chan string, 1)
	go func() {
		defer func() {
			message, bad := recover().(modelError)
			if bad {
				failed <- string(message)
			}
			close(failed)
		}()
		m.run()
	}()
	select {
	case message, bad := <-failed:
		if bad {
			text := m.dump()
			m.conn.Close()
			m.t.Fatalf("%s: %s\n%s\n%s", m.name, message, m.describe(), text)
		}
	case <-time.After(testutil.Patience):
		text := m.dump()
		m.conn.Close()
		<-failed
		m.t.Fatalf("%s hangs, window %d of %d %q, acked %d, pending %v, answers %d\n%s\n%s",
			m.name, m.window, m.size, m.policy, m.acked, m.pending, len(m.answers), m.describe(), text)
	}
}

func (m *modelClient) describe() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(m.streams)) {
		s := m.streams[id]
		fmt.Fprintf(&b, "%d: %d of %d, window %d of %d %q, ended %v reset %v\n",
			id, s.got, len(s.want), s.base+m.last(), s.size, s.policy, s.ended, s.reset)
	}
	return b.String()
}

func newSite(t testing.TB) *modelSite {
	body := testutil.Body(9 << 20)
	return &modelSite{t: t, body: body, file: testutil.OpenFile(t, body)}
}

// pick returns one of several.
func pick[T any](random *mathrand.Rand, from ...T) T { return from[random.IntN(len(from))] }

// ask asks for a body of a kind, which must come whole.
func (m *modelClient) ask(site *modelSite, id uint32, kind string, size int64, p policy, window int64) {
	offset := m.random.Int64N(int64(len(site.body)) - size)
	m.request(
		&modelStream{id: id, want: site.body[offset : offset+size], resetAt: -1, policy: p, size: window},
		map[string]string{
			"kind": kind, "size": fmt.Sprint(size), "offset": fmt.Sprint(offset), "whole": "yes", "seed": fmt.Sprint(id),
		},
	)
}

// begin sends the first frames, and grants window.
func (m *modelClient) begin(initial, window int64, p policy) {
	m.pending = append(m.pending, initial)
	m.send(initialSize(uint32(initial)))
	m.size, m.policy = window, p
	m.grant()
}

// randomModel has a client with random habits ask for random responses.
func randomModel(t testing.TB, site *modelSite, server string, seed uint64) {
	m := newModel(t, fmt.Sprintf("%s, seed %d", server, seed), server, site, seed, nil)
	random := m.random
	sizes := []int64{1, 100, 16_383, 16_384, 16_385, initialWindow, 1 << 20, maxWindow}
	policies := []policy{atOnce, atHalf, usedUp, byBytes}
	m.size, m.policy, m.late = pick(random, sizes...), pick(random, policies...), random.IntN(3) == 0
	streamSize := pick(random, sizes...)
	most := int64(3 << 20)
	if min(m.size, streamSize) <= 100 || m.policy == byBytes {
		most = 5000
	} else if min(m.size, streamSize) < initialWindow {
		most = 300_000
	}
	m.begin(pick(random, streamSize, m.acked), m.size, m.policy)
	m.changes = random.IntN(3) * random.IntN(6)
	for i := range 1 + random.IntN(8) {
		size := 1 + random.Int64N(1+random.Int64N(most))
		offset := random.Int64N(int64(len(site.body)) - size)
		s := &modelStream{
			id: uint32(2*i + 1), want: site.body[offset : offset+size], resetAt: -1,
			policy: pick(random, policies...), size: streamSize,
		}
		if s.policy == byBytes && size > 5000 {
			s.policy = atOnce
		}
		kind := pick(random, "file", "file", "bytes", "mixed", "small", "streamed", "deadline", "abort")
		header := map[string]string{
			"kind": kind, "size": fmt.Sprint(size), "offset": fmt.Sprint(offset), "seed": fmt.Sprint(random.Uint32()),
		}
		switch {
		case kind == "deadline" || kind == "abort":
			s.mayEnd = true
			header["fail"] = fmt.Sprint(1 + random.Int64N(size))
		case random.IntN(4) == 0:
			s.resetAt = random.Int64N(size)
		default:
			header["whole"] = "yes"
		}
		if random.IntN(4) == 0 {
			s.trailer = true
			header["trailers"] = "yes"
		}
		m.request(s, header)
	}
	m.finish()
	m.conn.Close()
	c := m.server
	testutil.Returns(t, "the end of all streams", func() {
		eventually(c, func() bool { return len(c.queue) == 0 && c.filling == nil && c.reserved == 0 })
	})
}

// Whatever a client grants, and when, it gets every body whole, and never a byte more
// than it has granted. KTLS_LONG asks for many clients, KTLS_SEED for the first of them.
func TestModel(t *testing.T) {
	clients, first := uint64(40), uint64(0)
	if os.Getenv("KTLS_LONG") != "" {
		clients = 1500
	}
	if text := os.Getenv("KTLS_SEED"); text != "" {
		var err error
		first, err = strconv.ParseUint(text, 10, 64)
		testutil.Must(t, err)
	}
	site := newSite(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			for seed := range clients {
				t.Run(fmt.Sprint(first+seed), func(t *testing.T) {
					randomModel(t, site, server, first+seed)
				})
			}
		})
	}
}

// Every stream that waits and could send gets its turn, whoever sends its body.
func TestShares(t *testing.T) {
	site := newSite(t)
	// Of the server's own there is one: between several it chooses itself.
	kinds := []string{"file", "streamed", "bytes", "file", "mixed"}
	for _, server := range servers {
		for _, tt := range []struct {
			name            string
			initial, window int64
			policy          policy
		}{
			{"large windows", maxWindow, maxWindow, atOnce},
			{"one window for all", 1 << 20, 1 << 20, atHalf},
			{"the least window", initialWindow, initialWindow, usedUp},
		} {
			t.Run(server+", "+tt.name, func(t *testing.T) {
				var m *modelClient
				turns := map[*Stream]int{} // since a stream began to wait
				m = newModel(t, tt.name, server, site, 1, func(frames int) error {
					if frames == 0 {
						return nil
					}
					c := m.server
					c.mu.Lock()
					defer c.mu.Unlock()
					waiting := map[*Stream]int{}
					for _, s := range c.queue {
						if c.free(&s.account) > 0 {
							waiting[s] = turns[s] + 1
						}
						if waiting[s] > 2*len(kinds) {
							t.Errorf("stream %d has waited for %d turns", s.id, waiting[s])
						}
					}
					turns = waiting
					return nil
				})
				m.begin(tt.initial, tt.window, tt.policy)
				for i, kind := range kinds {
					m.ask(site, uint32(2*i+1), kind, 3<<20, atHalf, tt.initial)
				}
				m.finish()
			})
		}
	}
}

// A PING is answered before more than one turn's frames, however much is to be sent.
func TestPing(t *testing.T) {
	site := newSite(t)
	for _, server := range servers {
		for _, kind := range []string{"file", "bytes"} {
			t.Run(server+", "+kind, func(t *testing.T) {
				var m *modelClient
				var mu sync.Mutex
				sent, before, answered := 0, 0, 0
				var probe []byte
				m = newModel(t, kind, server, site, 1, func(frames int) error {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case frames == 0 && before > 0 && answered == 0:
						answered = sent - before
					case frames > 0 && before == 0 && sent >= 20:
						before = sent
						m.queue <- probe
						eventually(m.server, func() bool { return len(m.server.servers) > 0 })
					}
					sent += frames
					return nil
				})
				probe = m.newPing(func() {})
				m.begin(maxWindow, maxWindow, atOnce)
				// Of these none is finished before.
				m.ask(site, 1, kind, 4<<20, atOnce, maxWindow)
				m.ask(site, 3, kind, 4<<20, atOnce, maxWindow)
				m.finish()
				if answered < 1 || answered > turnFrames {
					t.Errorf("%d frames of ours went out before the answer", answered)
				}
			})
		}
	}
}

// A body of the server's that waits for window gets it though a stream that was taken
// over waits as well, and the client grants a byte at a time.
func TestSingleBytes(t *testing.T) {
	site := newSite(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) {
			m := newModel(t, server, server, site, 1, nil)
			m.begin(initialWindow, 1, byBytes)
			for i, kind := range []string{"file", "small", "bytes"} {
				m.ask(site, uint32(2*i+1), kind, 23_000, atOnce, initialWindow)
			}
			m.finish()
		})
	}
}

package ktls

import (
	"fmt"
	"io"
	"testing"
)

// Records that may be an alert or a KeyUpdate by their length are opened before the
// switch, by a key that is derived once.
func TestShortWriteAllocations(t *testing.T) {
	for _, n := range []int{2, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), onDemand, nil)
			conn, client, k := s.connect(t, clientConfig())
			go func() { _, _ = io.Copy(io.Discard, client.NetConn().(*recording).Conn) }()
			p := make([]byte, n)
			most := 6.0
			if got := testing.AllocsPerRun(200, func() { _, _ = conn.Write(p) }); got > most {
				t.Errorf("%v allocations for a write, want %v at most", got, most)
			}
			// The number is still the right one.
			conn.Offload()
			if _, err := conn.Write(p); err != nil {
				t.Fatal(err)
			}
			wantReason(t, conn, Offloaded)
			if k.Sequence() < 202 {
				t.Errorf("the kernel goes on with %d", k.Sequence())
			}
		})
	}
}

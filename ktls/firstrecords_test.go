package ktls

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// noFirstRecords makes a connection take itself for busy, for an hour.
func noFirstRecords(conn *Conn) { conn.out.fileSent = time.Now().Add(time.Hour) }

// A file begins with short records, unless another file was sent just before.
func TestFirstRecords(t *testing.T) {
	testFirstRecords(t, newFakeServer(t, serverConfig(), offloadAll, nil))
}

func testFirstRecords(t *testing.T, s *fakeServer) {
	conn, p, _ := s.connectPeer(t)
	const size = 50_000
	body := testutil.Body(size)
	f := testutil.OpenFile(t, body)
	for _, tt := range []struct {
		name    string
		before  func()
		records []int
	}{
		{"first", func() {}, []int{6, 512, 3584, 16384, 16384, 13136}},
		{"busy", func() { noFirstRecords(conn) }, []int{6, 16384, 16384, 16384, 848}},
		{"after a pause", func() { conn.out.fileSent = time.Now().Add(-idleTime) }, []int{6, 512, 3584, 16384, 16384, 13136}},
	} {
		tt.before()
		sending := make(chan error, 1)
		go func() {
			_, err := conn.SendFile([]byte("header"), filerange.Segment{File: f, Len: size})
			sending <- err
		}()
		var records []int
		var got []byte
		for len(got) < 6+size {
			typ, content, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			if typ == recordApplicationData {
				records, got = append(records, len(content)), append(got, content...)
			}
		}
		if err := <-sending; err != nil {
			t.Error(err)
		}
		testutil.SameBody(t, got, append([]byte("header"), body...))
		if !slices.Equal(records, tt.records) {
			t.Errorf("%s: records of %v bytes, want %v", tt.name, records, tt.records)
		}
	}
}

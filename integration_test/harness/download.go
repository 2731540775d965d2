package harness

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Download is a response over HTTP/1.1 that is read slowly. So far, its beginning was
// read.
type Download struct {
	conn *tls.Conn
	resp *http.Response
	body *Digester
}

// StartDownload begins a download of a path that the server can't finish by itself,
// because the client's window is small.
func StartDownload(t testing.TB, s Site, path string) *Download {
	t.Helper()
	d := &Download{conn: tls.Client(s.DialTCP(t, ReceiveBuffer(64<<10)), s.TLSConfig(t)), body: NewDigester()}
	SendGet(t, d.conn, path)
	var err error
	d.resp, err = http.ReadResponse(bufio.NewReader(d.conn), nil)
	testutil.Must(t, err)
	_, err = io.CopyN(d.body, d.resp.Body, 100_000)
	testutil.Must(t, err)
	return d
}

// Rest reads the rest, and ends the connection. It returns the digest of all that has
// come.
func (d *Download) Rest() (Digest, error) {
	_, err := io.Copy(d.body, d.resp.Body)
	_ = d.conn.Close()
	return d.body.Digest(), err
}

// WantFile reads the rest, ends the connection, and fails the test unless a whole file
// has come.
func (d *Download) WantFile(t testing.TB, f File) {
	t.Helper()
	got, err := d.Rest()
	if err != nil {
		t.Errorf("after %d bytes: %v", got.Size, err)
	}
	WantBody(t, Response{d.resp, got}, http.StatusOK, f.Digest)
}

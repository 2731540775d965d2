package harness

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A Response is a response with the digest of its body.
type Response struct {
	*http.Response
	Digest Digest
}

// Do sends a request and reads all of the response. Headers come in pairs.
func Do(t testing.TB, client *http.Client, method, url string, headers ...string) Response {
	t.Helper()
	resp, err := Try(t, client, method, url, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp
}

// Get is Do for GET.
func Get(t testing.TB, client *http.Client, url string, headers ...string) Response {
	t.Helper()
	return Do(t, client, http.MethodGet, url, headers...)
}

// Try is Do, but returns an error.
func Try(t testing.TB, client *http.Client, method, url string, headers ...string) (Response, error) {
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		return Response{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	digest, err := ReadDigest(resp.Body)
	if err != nil {
		return Response{}, fmt.Errorf("reading the body: %w", err)
	}
	return Response{resp, digest}, nil
}

// Get is Do for a path, on a connection of its own.
func (s Site) Get(t testing.TB, path string, headers ...string) Response {
	t.Helper()
	client := s.Client(t, nil)
	defer client.CloseIdleConnections()
	return Get(t, client, s.URL(path), headers...)
}

// WantFile gets a whole file on a connection of its own, and fails the test if
// something else comes.
func (s Site) WantFile(t testing.TB, path string, f File) {
	t.Helper()
	WantBody(t, s.Get(t, path), http.StatusOK, f.Digest)
}

// WantFile gets a whole file, and fails the test if something else comes.
func WantFile(t testing.TB, client *http.Client, url string, f File) {
	t.Helper()
	WantBody(t, Get(t, client, url), http.StatusOK, f.Digest)
}

// WantBody fails the test unless a response has this status and body.
func WantBody(t testing.TB, resp Response, status int, body Digest) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d", resp.StatusCode, status)
	}
	if resp.Digest != body {
		t.Errorf("body has %v, want %v", resp.Digest, body)
	}
}

// SendGet writes a request of HTTP/1.1 for a path of localhost. Header fields are
// lines without their ends.
func SendGet(t testing.TB, w io.Writer, path string, header ...string) {
	t.Helper()
	_, err := io.WriteString(w, RequestText(path, header...))
	testutil.Must(t, err)
}

// RequestText returns what SendGet writes.
func RequestText(path string, header ...string) string {
	lines := append([]string{"GET " + path + " HTTP/1.1", "Host: localhost"}, header...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// ReadResponse reads a response of HTTP/1.1, to the end of its body.
func ReadResponse(t testing.TB, r *bufio.Reader) Response {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	testutil.Must(t, err)
	return ReadBody(t, resp)
}

// ReadBody reads the body of a response to its end.
func ReadBody(t testing.TB, resp *http.Response) Response {
	t.Helper()
	digest, err := ReadDigest(resp.Body)
	if err != nil {
		t.Fatalf("after %d bytes of the body: %v", digest.Size, err)
	}
	return Response{resp, digest}
}

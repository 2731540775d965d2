package harness

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Tests that compare with stock Caddy run it beside the module in one process. At PORT2,
// a server of its own has the same sites without the directive.

// nonce matches what listings contain for their scripts.
var nonce = regexp.MustCompile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

// A Reply is the response to a request, without what can't be the same twice.
type Reply struct {
	Status int
	Header string
	Body   Digest
	Text   string // the body, if it is short
}

func newReply(status int, header http.Header, body []byte) Reply {
	header.Del("Date")
	header.Del("Alt-Svc") // contains the port
	if header.Get("Retry-After") != "" {
		header.Set("Retry-After", "some seconds") // random
	}
	if typ, params, err := mime.ParseMediaType(header.Get("Content-Type")); err == nil && typ == "multipart/byteranges" {
		header.Set("Content-Type", typ) // the boundary is random
		body = bytes.ReplaceAll(body, []byte(params["boundary"]), []byte(strings.Repeat("-", len(params["boundary"]))))
	}
	var fields bytes.Buffer
	_ = header.Write(&fields) // sorted
	if strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		body = nonce.ReplaceAll(body, []byte("UUID"))
	}
	a := Reply{Status: status, Header: nonce.ReplaceAllString(fields.String(), "UUID"), Body: DigestOf(body)}
	if len(body) < 4<<10 {
		a.Text = string(body)
	}
	return a
}

func (a Reply) String() string {
	return fmt.Sprintf("status %d, %v\n%s\n%s", a.Status, a.Body, a.Header, a.Text)
}

// Field returns a header field.
func (a Reply) Field(t testing.TB, name string) string {
	t.Helper()
	for line := range strings.Lines(a.Header) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in %v", name, a)
	return ""
}

// A Visit is a connection on which requests are made one after the other. It speaks the
// version of HTTP that it negotiates.
type Visit struct {
	Conn   *tls.Conn // nil if there is none now
	Dialed int       // connections so far

	t      testing.TB
	dial   func() *tls.Conn
	reader *bufio.Reader // HTTP/1.1
	http2  *HTTP2Conn
	last   *Stream // over HTTP/2
}

// NewVisit returns a Visit to a site. It connects with the first request.
func NewVisit(t testing.TB, s Site, config *tls.Config) *Visit {
	v := &Visit{t: t}
	v.dial = func() *tls.Conn {
		v.Dialed++
		return s.Dial(t, config)
	}
	return v
}

// Ask makes a request and fails the test if there is no answer. Headers come in pairs;
// Host is one of them.
func (v *Visit) Ask(method, path string, headers ...string) Reply {
	v.t.Helper()
	if v.Conn == nil {
		v.Conn = v.dial()
		v.reader, v.http2 = bufio.NewReader(v.Conn), nil
		if v.Conn.ConnectionState().NegotiatedProtocol == HTTP2 {
			v.http2 = NewHTTP2(v.t, v.Conn, WideWindows())
		}
	}
	host, rest := "localhost", slices.Clone(headers)
	if i := slices.Index(rest, "Host"); i >= 0 {
		host = rest[i+1]
		rest = slices.Delete(rest, i, i+2)
	}
	ask := v.askHTTP1
	if v.http2 != nil {
		ask = v.askHTTP2
	}
	a, err := ask(method, path, host, rest)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (v *Visit) askHTTP1(method, path, host string, headers []string) (Reply, error) {
	var request strings.Builder
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, host)
	for i := 0; i < len(headers); i += 2 {
		fmt.Fprintf(&request, "%s: %s\r\n", headers[i], headers[i+1])
	}
	if _, err := io.WriteString(v.Conn, request.String()+"\r\n"); err != nil {
		return Reply{}, err
	}
	resp, err := http.ReadResponse(v.reader, &http.Request{Method: method})
	if err != nil {
		return Reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{}, err
	}
	body = v.here(body)
	if resp.Close {
		v.Leave()
		resp.Header.Set("Connection", "close") // ReadResponse takes it
	}
	return newReply(resp.StatusCode, resp.Header, body), nil
}

func (v *Visit) askHTTP2(method, path, host string, headers []string) (Reply, error) {
	h := v.http2
	fields := []string{":method", method, ":scheme", "https", ":authority", host, ":path", path}
	for i := 0; i < len(headers); i += 2 {
		fields = append(fields, strings.ToLower(headers[i]), headers[i+1])
	}
	s := h.Begin(http2.PriorityParam{}, true, fields...)
	v.last = s
	h.Over(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.Reset {
		return Reply{}, fmt.Errorf("reset: %v", s.Code)
	}
	status := 0
	_, err := fmt.Sscan(s.Status, &status)
	return newReply(status, s.Header, v.here(s.Body)), err
}

// here replaces what differs between connections, the ports, in a short text.
func (v *Visit) here(body []byte) []byte {
	if len(body) > 16<<10 {
		return body
	}
	for name, address := range map[string]net.Addr{"CLIENT": v.Conn.LocalAddr(), "SERVER": v.Conn.RemoteAddr()} {
		_, port, err := net.SplitHostPort(address.String())
		testutil.Must(v.t, err)
		body = bytes.ReplaceAll(body, []byte(":"+port), []byte(":"+name))
		body = bytes.ReplaceAll(body, []byte("="+port+";"), []byte("="+name+";"))
	}
	return body
}

// WantFile gets a file, and fails the test if something else comes.
func (v *Visit) WantFile(path string, f File) {
	v.t.Helper()
	if a := v.Ask(http.MethodGet, path); a.Status != http.StatusOK || a.Body != f.Digest {
		v.t.Errorf("%s: %v, want %v", path, a, f.Digest)
	}
}

// WantOwnFrames fails the test unless the module has sent most of the last body itself,
// if it came over HTTP/2.
func (v *Visit) WantOwnFrames() {
	v.t.Helper()
	if v.http2 != nil {
		v.http2.WantOwnFrames(v.last)
	}
}

// Leave ends the connection.
func (v *Visit) Leave() {
	_ = v.Conn.Close()
	v.Conn = nil
}

package integration_test

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
)

// Tests that compare with stock Caddy run it beside the module in one process: at
// PORT2, a server of its own, the same sites without the directive.

// nonce is in listings, for their scripts.
var nonce = regexp.MustCompile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

// A reply is what came for a request, without what can't be the same twice.
type reply struct {
	status int
	header string
	body   digest
	text   string // the body, if it is short
}

func newReply(status int, header http.Header, body []byte) reply {
	header.Del("Date")
	header.Del("Alt-Svc") // has the port
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
	a := reply{status: status, header: nonce.ReplaceAllString(fields.String(), "UUID"), body: digestOf(body)}
	if len(body) < 4<<10 {
		a.text = string(body)
	}
	return a
}

func (a reply) String() string {
	return fmt.Sprintf("status %d, %v\n%s\n%s", a.status, a.body, a.header, a.text)
}

// A visit is a connection on which requests are made one after the other.
type visit struct {
	t    testing.TB
	dial func() *tls.Conn

	reader *bufio.Reader // HTTP/1.1
	conn   *tls.Conn
	http2  *h2Conn
	last   *h2Response // over HTTP/2
	dialed int
}

// here replaces what is the connection's own, its ports, in a short text.
func (v *visit) here(body []byte) []byte {
	if len(body) > 16<<10 {
		return body
	}
	for name, address := range map[string]net.Addr{"CLIENT": v.conn.LocalAddr(), "SERVER": v.conn.RemoteAddr()} {
		_, port, err := net.SplitHostPort(address.String())
		must(v.t, err)
		body = bytes.ReplaceAll(body, []byte(":"+port), []byte(":"+name))
		body = bytes.ReplaceAll(body, []byte("="+port+";"), []byte("="+name+";"))
	}
	return body
}

// visit returns a visitor of a port, who has yet to come.
func (c *caddy) visit(t testing.TB, port string, config *tls.Config) *visit {
	v := &visit{t: t}
	v.dial = func() *tls.Conn {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, config)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		v.dialed++
		return conn
	}
	return v
}

// ask makes a request and fails the test if there is no answer. Headers come in
// pairs; Host is one of them.
func (v *visit) ask(method, path string, headers ...string) reply {
	v.t.Helper()
	a, err := v.try(method, path, headers...)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (v *visit) try(method, path string, headers ...string) (reply, error) {
	if v.conn == nil {
		v.conn = v.dial()
		v.reader, v.http2 = bufio.NewReader(v.conn), nil
		if v.conn.ConnectionState().NegotiatedProtocol == http2.NextProtoTLS {
			v.http2 = newH2Conn(v.t, v.conn, wide)
		}
	}
	host, rest := "localhost", slices.Clone(headers)
	if i := slices.Index(rest, "Host"); i >= 0 {
		host = rest[i+1]
		rest = slices.Delete(rest, i, i+2)
	}
	if v.http2 != nil {
		return v.tryHTTP2(method, path, host, rest)
	}
	var request strings.Builder
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, host)
	for i := 0; i < len(rest); i += 2 {
		fmt.Fprintf(&request, "%s: %s\r\n", rest[i], rest[i+1])
	}
	if _, err := io.WriteString(v.conn, request.String()+"\r\n"); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(v.reader, &http.Request{Method: method})
	if err != nil {
		return reply{}, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, err
	}
	body = v.here(body)
	if resp.Close {
		v.leave()
		resp.Header.Set("Connection", "close") // ReadResponse takes it
	}
	return newReply(resp.StatusCode, resp.Header, body), nil
}

func (v *visit) tryHTTP2(method, path, host string, headers []string) (reply, error) {
	h := v.http2
	fields := []string{":method", method, ":scheme", "https", ":authority", host, ":path", path}
	for i := 0; i < len(headers); i += 2 {
		fields = append(fields, strings.ToLower(headers[i]), headers[i+1])
	}
	s := h.begin(http2.PriorityParam{}, true, fields...)
	v.last = s
	h.wait("an answer", func() bool { return s.ended || s.reset })
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.reset {
		return reply{}, fmt.Errorf("reset: %v", s.code)
	}
	status := 0
	_, err := fmt.Sscan(s.status, &status)
	return newReply(status, s.header, v.here(s.body)), err
}

// leave ends the connection.
func (v *visit) leave() {
	_ = v.conn.Close()
	v.conn = nil
}

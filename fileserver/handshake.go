package fileserver

import (
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

// net/http no longer sees a *tls.Conn, so a conn does what net/http does for one: it
// limits and logs the handshake, answers plain HTTP, and holds the client to the protocol
// that was negotiated.

// A handshake is the handshake of a connection. Its other fields may be read when once is
// done.
type handshake struct {
	once   sync.Once
	err    error
	inTime bool // it ended before the listener was closed, see missedShutdown
}

var (
	errProtocol      = errors.New("fileserver: client does not speak the negotiated protocol")
	errInsecureHTTP2 = errors.New("fileserver: HTTP/2 with an inadequate TLS version or cipher suite")
)

// shakeHands runs the handshake, once.
func (c *conn) shakeHands() error {
	c.handshake.once.Do(c.doHandshake)
	return c.handshake.err
}

// doHandshake does what net/http does in (*conn).serve for a *tls.Conn.
func (c *conn) doHandshake() {
	server := c.listener.server
	if d := server.Timeouts.handshake(); d > 0 {
		_ = c.tls.SetDeadline(time.Now().Add(d))
	}
	if err := c.tls.Handshake(); err != nil {
		c.handshake.err = c.readError(err)
		server.handshakeFailed(c.RemoteAddr(), refusePlainHTTP(err))
		return
	}
	c.handshake.err = c.afterHandshake()
}

// afterHandshake is a function of its own, because the handshake needs the stack.
func (c *conn) afterHandshake() error {
	c.handshake.inTime = !c.listener.closed.Load()
	_ = c.tls.SetDeadline(time.Time{})
	state := c.tls.ConnectionState()
	c.protocol.http2 = state.NegotiatedProtocol == http2.NextProtoTLS
	if c.protocol.http2 {
		c.http2.Store(http2body.New(wire{c}))
	}
	timeouts := c.listener.server.Timeouts
	if d := timeouts.readHeader(); d > 0 {
		_ = c.setReadDeadline(time.Now().Add(d))
	}
	if c.protocol.http2 && !secureForHTTP2(state) {
		_ = http2.NewFramer(c.tls, nil).WriteGoAway(0, http2.ErrCodeInadequateSecurity, nil)
		_ = c.Close()
		return c.readError(errInsecureHTTP2)
	}
	return nil
}

// refusePlainHTTP answers a client that speaks HTTP on the port for HTTPS, in net/http's
// words. It returns the error to be logged.
func refusePlainHTTP(err error) error {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || header.Conn == nil {
		return err
	}
	switch string(header.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
	default:
		return err
	}
	_, _ = io.WriteString(header.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	_ = header.Conn.Close()
	return errors.New("client sent an HTTP request to an HTTPS server")
}

// secureForHTTP2 reports whether HTTP/2 may be spoken (RFC 9113, section 9.2).
// Of the suites that crypto/tls has for TLS 1.2, appendix A allows those with
// ephemeral key exchange and AEAD.
func secureForHTTP2(state tls.ConnectionState) bool {
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return true
	}
	return state.Version >= tls.VersionTLS13
}

// A protocolCheck compares the first bytes of a connection with what ALPN has agreed on.
// With h2 they must be the HTTP/2 preface (RFC 9113, section 3.4). Otherwise they must
// not be.
type protocolCheck struct {
	http2 bool
	seen  int // bytes so far that agree with the preface
	done  bool
}

// accept takes the next bytes, and reports whether they are allowed.
func (p *protocolCheck) accept(b []byte) bool {
	for i := 0; i < len(b) && !p.done; i++ {
		if b[i] != http2.ClientPreface[p.seen] {
			p.done = true
			return !p.http2
		}
		if p.seen++; p.seen == len(http2.ClientPreface) {
			p.done = true
			return p.http2
		}
	}
	return true
}

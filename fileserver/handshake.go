package fileserver

import (
	"crypto/tls"
	"errors"
	"io"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

var (
	errProtocol      = errors.New("fileserver: client does not speak the negotiated protocol")
	errInsecureHTTP2 = errors.New("fileserver: HTTP/2 with an inadequate TLS version or cipher suite")
)

// shakeHands does what net/http does in (*conn).serve for a *tls.Conn.
func (c *conn) shakeHands() {
	timeouts := c.server.Timeouts
	if d := timeouts.handshake(); d > 0 {
		_ = c.tls.SetDeadline(time.Now().Add(d))
	}
	if err := c.tls.Handshake(); err != nil {
		c.handshakeErr = c.readError(err)
		c.server.handshakeFailed(c.RemoteAddr(), refusePlainHTTP(err))
		return
	}
	c.handshakeErr = c.shook()
}

// shook does what is due after the handshake. It is apart because the handshake
// needs the stack.
func (c *conn) shook() error {
	c.known = !c.listener.closed.Load()
	timeouts := c.server.Timeouts
	_ = c.tls.SetDeadline(time.Time{})
	state := c.tls.ConnectionState()
	c.protocol.http2 = state.NegotiatedProtocol == http2.NextProtoTLS
	if c.protocol.http2 {
		c.frames.Store(http2body.New(wire{c}))
	}
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

// refusePlainHTTP answers a client that speaks HTTP on the port for HTTPS, in
// net/http's words, and returns what is to be logged.
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

// A protocolCheck compares the first bytes of a connection with what ALPN has
// agreed on: the HTTP/2 preface (RFC 9113, section 3.4) on h2, and nothing like
// it otherwise.
type protocolCheck struct {
	http2 bool
	seen  int // bytes that agree with the preface
	done  bool
}

// accept takes the next bytes and reports whether they are allowed.
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

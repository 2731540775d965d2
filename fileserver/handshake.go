package fileserver

import (
	"crypto/tls"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
)

// net/http no longer sees a *tls.Conn, so a conn does what net/http does for one: it
// limits and logs the handshake, answers plain HTTP, and holds the client to the protocol
// that was negotiated.

// A handshake is the handshake of a connection. err and inTime may be read when it is
// done.
type handshake struct {
	mu     sync.Mutex // held during the handshake
	done   atomic.Bool
	err    error
	inTime bool // it ended before the listener was closed, see missedShutdown
}

var (
	errProtocol      = errors.New("fileserver: client does not speak the negotiated protocol")
	errInsecureHTTP2 = errors.New("fileserver: HTTP/2 with an inadequate TLS version or cipher suite")
)

// shakeHands runs the handshake, once.
func (c *conn) shakeHands() error {
	if !c.handshake.done.Load() {
		c.doHandshake()
	}
	return c.handshake.err
}

// doHandshake does what net/http does in (*conn).serve for a *tls.Conn.
//
// The frames of this function and of its callers are to be small, so it has no sync.Once.
// Choosing a certificate in Caddy takes nearly all of a stack of 16 KiB. A few hundred
// bytes more make Go copy the stack to one of 32 KiB, which costs a new connection 5 % of
// its instructions.
func (c *conn) doHandshake() {
	h := &c.handshake
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return
	}
	c.limitHandshake()
	growStack()
	if err := c.tls.Handshake(); err != nil {
		h.err = c.handshakeFailed(err)
	} else {
		h.err = c.afterHandshake()
	}
	h.done.Store(true)
}

// growStack makes the goroutine's stack 16 KiB, if up to 7 KiB of it are in use. For those
// who take so much anyway: otherwise Go would find that out in their depths, and copy many
// frames, once or twice. It costs the clearing of 8 KiB.
//
//go:noinline
func growStack() {
	var frame [8 << 10]byte
	runtime.KeepAlive(&frame)
}

func (c *conn) limitHandshake() {
	if d := c.listener.server.Timeouts.handshake(); d > 0 {
		_ = c.tls.SetDeadline(time.Now().Add(d))
	}
}

// handshakeFailed tells the server, and returns the error for the reader.
func (c *conn) handshakeFailed(err error) error {
	c.listener.server.handshakeFailed(c.RemoteAddr(), refusePlainHTTP(err))
	return c.readError(err)
}

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

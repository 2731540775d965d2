package fileserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-ktls/caddy-ktls/internal/http2body"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A connection waits for a request between the first read deadline that net/http
// sets when it is idle and the second.
func TestIdleness(t *testing.T) {
	raw, other := net.Pipe()
	defer other.Close()
	c := newConn(ktls.NewServer(new(tls.Config), nil).Conn(raw), &listener{server: new(Server)})
	state := func(s http.ConnState) { ConnState(stateConn{addr: c.LocalAddr()}, s) }
	deadline := func() { _ = c.SetReadDeadline(time.Time{}) }
	state(http.StateNew)
	for i, step := range []struct {
		do   func()
		want idleness
	}{
		{deadline, busy},
		{func() { state(http.StateActive) }, busy},
		{deadline, busy},
		{func() { state(http.StateIdle) }, beforeWaiting},
		{deadline, waiting},
		{deadline, busy},
		{deadline, busy},
		{func() { state(http.StateIdle) }, beforeWaiting},
		{deadline, waiting},
		{func() { state(http.StateClosed) }, busy},
		{func() { ConnState(stateConn{addr: &net.TCPAddr{}}, http.StateIdle) }, busy}, // none of ours
	} {
		step.do()
		if got := c.idle.Load(); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

// stateConn is a connection as net/http has it, which may be wrapped.
type stateConn struct {
	net.Conn
	addr net.Addr
}

func (c stateConn) LocalAddr() net.Addr { return c.addr }

// A client that a server begins to stop beneath is told to go away if its handshake
// was over, as if the server had known it already; else its requests are served.
func TestPrefaceAfterShutdown(t *testing.T) {
	for _, shaken := range []bool{true, false} {
		t.Run(fmt.Sprintf("handshake before: %v", shaken), func(t *testing.T) {
			config, _ := testutil.TLSConfig()
			config.NextProtos = []string{"h2"}
			inner := testutil.Listen(t)
			own := &Server{TLS: ktls.NewServer(config, nil)}
			server := &http.Server{Protocols: new(http.Protocols), Handler: http.NotFoundHandler()}
			server.Protocols.SetUnencryptedHTTP2(true) // so it is what Caddy hands on
			ln := slowListener{own.Listener(tls.NewListener(inner, config)), shaken, make(chan struct{})}
			go func() { _ = server.Serve(ln) }()
			raw, err := net.Dial("tcp", inner.Addr().String())
			testutil.Must(t, err)
			client := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			defer client.Close()
			testutil.Must(t, client.SetDeadline(time.Now().Add(time.Minute)))
			if shaken {
				testutil.Must(t, client.Handshake())
			}
			<-ln.accepted

			told, stopped := make(chan struct{}), make(chan error, 1)
			server.RegisterOnShutdown(func() { close(told) })
			go func() { stopped <- server.Shutdown(t.Context()) }()
			<-told // the connections that the server knows
			_, err = client.Write(append([]byte(http2.ClientPreface), http2body.Frames(func(f *http2.Framer) error {
				testutil.Must(t, f.WriteSettings())
				return f.WriteHeaders(http2.HeadersFrameParam{
					StreamID: 1, BlockFragment: requestBlock(t), EndStream: true, EndHeaders: true,
				})
			})...))
			testutil.Must(t, err)
			for framer, over := http2.NewFramer(nil, client), false; !over; {
				frame, err := framer.ReadFrame()
				testutil.Must(t, err)
				switch frame.(type) {
				case *http2.GoAwayFrame:
					if over = true; !shaken {
						t.Error("the request is not answered")
					}
				case *http2.HeadersFrame:
					if over = true; shaken {
						t.Error("a request is answered, and the client is not told to go away")
					}
				}
			}
			testutil.Must(t, client.Close())
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// A slowListener tells of each connection that it hands on, if it is to after its
// handshake. It hides what Caddy hides.
type slowListener struct {
	net.Listener
	shakes   bool
	accepted chan struct{}
}

func (l slowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if l.shakes {
		_, err = conn.Read(nil)
	}
	l.accepted <- struct{}{}
	return struct{ net.Conn }{conn}, err
}

package fileserver

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A connection waits for a request between the first read deadline that net/http
// sets when it is idle and the second.
func TestIdleness(t *testing.T) {
	raw, other := net.Pipe()
	defer other.Close()
	c := newConn(ktls.NewServer(new(tls.Config), nil).Conn(raw), new(Server))
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

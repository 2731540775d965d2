package ktls

import (
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// While a call waits for room the connection is uncorked, and afterwards not.
func TestWaitTimer(t *testing.T) {
	_, server := smallPair(t, 4096)
	s := newSocket(server).(*socket)
	s.cork(true)
	if !corked(t, server) {
		t.Fatal("not corked")
	}
	w := &s.call().waiting
	w.begin(s, shortPause)
	wantUncorked(t, server)
	if !w.again() {
		t.Error("uncorked once only")
	}
	w.end()
	if w.again() {
		t.Error("goes on afterwards")
	}
}

// Where much is under way, an acknowledgment wakes whoever waits.
func TestFirstPause(t *testing.T) {
	_, server := smallPair(t, 1<<20)
	s := newSocket(server).(*socket)
	pause := func() (pause time.Duration) {
		testutil.Must(t, s.control(func(fd int) error { pause = firstPause(fd); return nil }))
		return pause
	}
	if got := pause(); got != shortPause {
		t.Errorf("with nothing under way the pause is %v", got)
	}
	if _, err := server.Write(make([]byte, 2*muchUnderWay)); err != nil {
		t.Fatal(err)
	}
	if got := pause(); got != lastPause {
		t.Errorf("with much under way the pause is %v", got)
	}
}

package ktls

import (
	"crypto/tls"
	"maps"
	"slices"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// secretsOf returns what a connection knows that is secret. The slices are its own.
func secretsOf(conn *Conn) map[string][]byte {
	all := make(map[string][]byte)
	of := func(owner string, k *writeKey) {
		if len(k.secret) > 0 {
			all[owner+"'s secret"] = k.secret
		}
		if k.made != nil {
			all[owner+"'s key"], all[owner+"'s IV"] = k.made.key, k.made.iv
		}
	}
	counter := &conn.tap.counter
	counter.mu.Lock()
	defer counter.mu.Unlock()
	of("counter", &counter.key)
	if len(counter.last) > 0 {
		all["last record"] = counter.last
	}
	if relay := conn.tap.relay.Load(); relay != nil {
		relay.mu.Lock()
		defer relay.mu.Unlock()
		of("relay", &relay.key)
	}
	conn.renewal.mu.Lock()
	defer conn.renewal.mu.Unlock()
	if len(conn.renewal.secret) > 0 {
		all["kernel's secret"] = conn.renewal.secret
	}
	return all
}

// Our own copies of secrets are zeroed when they are of no more use, however a
// connection ends.
func TestSecretsZeroed(t *testing.T) {
	type state struct {
		conn *Conn
		peer *peer
		k    *fakeKernel
	}
	alert := func(t *testing.T, s state) {
		s.peer.garbage()
		for err := error(nil); err == nil; {
			_, err = s.conn.Read(make([]byte, 1))
		}
	}
	for _, tt := range []struct {
		name    string
		mode    mode
		version uint16
		rekey   bool
		before  func(*testing.T, state)
		end     func(*testing.T, state)
		want    []string // what there was to zero
	}{
		{name: "never offloaded", want: []string{"counter's secret"}},
		{name: "offloaded", mode: offloadAll, rekey: true, want: []string{"kernel's secret", "relay's secret"}},
		{name: "offloaded, no rekey", mode: offloadAll, want: []string{"relay's secret"}},
		{name: "TLS 1.2", mode: offloadAll, version: tls.VersionTLS12, want: []string{"relay's secret"}},
		{name: "can't be offloaded", before: func(t *testing.T, s state) {
			s.conn.tap.counter.unproven = true
		}, end: func(t *testing.T, s state) {
			s.conn.Offload()
			transfer(t, s.conn, s.peer, testutil.Body(70_000))
			wantState(t, s.conn, SequenceUnproven)
		}, want: []string{"counter's secret"}},
		{name: "after an alert", mode: offloadAll, rekey: true, before: alert, want: []string{"kernel's secret", "relay's IV", "relay's key", "relay's secret"}},
		{name: "TLS 1.2 after an alert", mode: offloadAll, version: tls.VersionTLS12, before: alert, want: []string{"relay's IV", "relay's key", "relay's secret"}},
		{name: "while a write is blocked", mode: offloadAll, rekey: true, end: func(t *testing.T, s state) {
			s.conn.lock()
			s.conn.Close()
			s.conn.unlock()
		}, want: []string{"kernel's secret", "relay's secret"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newFakeServer(t, serverConfig(), tt.mode, nil)
			s.support.Rekey = tt.rekey
			if tt.version == 0 {
				tt.version = tls.VersionTLS13
			}
			conn, p, k := s.connectPeerOf(t, tt.version)
			st := state{conn, p, k}
			if tt.mode == offloadAll {
				wantZero(t, "crypto info", k.lastInfo)
			}
			if tt.before != nil {
				tt.before(t, st)
			}
			secrets := secretsOf(conn)
			names := slices.Sorted(maps.Keys(secrets))
			if !slices.Equal(names, tt.want) {
				t.Errorf("there are %q, want %q", names, tt.want)
			}
			if tt.end != nil {
				tt.end(t, st)
			} else {
				conn.Close()
			}
			for name, secret := range secrets {
				wantZero(t, name, secret)
			}
			wantZeroed(t, conn)
		})
	}
}

// The secret of a session that was offered is not kept when the handshake turns
// out to be a full one.
func TestReplacedSecretZeroed(t *testing.T) {
	var k writeKey
	first, second := testutil.Body(masterSecretLen), testutil.Body(masterSecretLen)
	k.set(first)
	k.set(second)
	wantZero(t, "secret of the session", first)
	if !slices.Equal(k.secret, testutil.Body(masterSecretLen)) {
		t.Error("the secret of the handshake is not there")
	}
}

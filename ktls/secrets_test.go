package ktls

import (
	"crypto/tls"
	"slices"
	"testing"
)

// secretsOf returns what a recorder knows that is secret. The slices are its own.
func secretsOf(r *recorder) map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string][]byte{"secret": r.secret, "kernel's secret": r.sending}
	if r.shadow != nil {
		all["shadow key"], all["shadow IV"] = r.shadow.key, r.shadow.iv
	}
	for name, secret := range all {
		if len(secret) == 0 {
			delete(all, name)
		}
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
		{name: "never moved", want: []string{"secret"}},
		{name: "moved", mode: offloadAll, rekey: true, want: []string{"kernel's secret", "secret"}},
		{name: "moved, no rekey", mode: offloadAll, want: []string{"secret"}},
		{name: "TLS 1.2", mode: offloadAll, version: tls.VersionTLS12, want: []string{"secret"}},
		{name: "can't be moved", before: func(t *testing.T, s state) {
			s.conn.rec.unproven = true
		}, end: func(t *testing.T, s state) {
			s.conn.Offload()
			transfer(t, s.conn, s.peer, testBody(70_000))
			wantReason(t, s.conn, SequenceUnproven)
		}, want: []string{"secret"}},
		{name: "after an alert", mode: offloadAll, rekey: true, before: alert, want: []string{"kernel's secret", "secret", "shadow IV", "shadow key"}},
		{name: "TLS 1.2 after an alert", mode: offloadAll, version: tls.VersionTLS12, before: alert, want: []string{"secret", "shadow IV", "shadow key"}},
		{name: "while a write is blocked", mode: offloadAll, rekey: true, end: func(t *testing.T, s state) {
			s.conn.lock()
			s.conn.Close()
			s.conn.unlock()
		}, want: []string{"kernel's secret", "secret"}},
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
			secrets := secretsOf(conn.rec)
			var names []string
			for name := range secrets {
				names = append(names, name)
			}
			slices.Sort(names)
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
	r := new(recorder)
	first, second := testBody(masterSecretLen), testBody(masterSecretLen)
	r.setSecret(first)
	r.setSecret(second)
	wantZero(t, "secret of the session", first)
	if !slices.Equal(r.secret, testBody(masterSecretLen)) {
		t.Error("the secret of the handshake is not there")
	}
}

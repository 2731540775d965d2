package ktls

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func TestCheck(t *testing.T) {
	support, unavailable := Probe()
	trials := Check()
	if len(trials) != 6 {
		t.Errorf("%d trials, want 6: %+v", len(trials), trials)
	}
	for _, trial := range trials {
		t.Run(tls.VersionName(trial.Version)+"/"+trial.Cipher, func(t *testing.T) {
			if unavailable != nil {
				if trial.Err == nil || trial.SendFile || trial.Rekey {
					t.Errorf("%+v without kernel TLS", trial)
				}
				return
			}
			if errors.Is(trial.Err, errors.ErrUnsupported) && !testutil.Required() {
				t.Skip(trial.Err)
			}
			want := Trial{
				Version: trial.Version, Cipher: trial.Cipher,
				SendFile: true, Rekey: support.Rekey && trial.Version == tls.VersionTLS13,
			}
			if trial != want {
				t.Errorf("%+v, want %+v", trial, want)
			}
		})
	}
}

// All but the encryption in the kernel can be tried anywhere.
func TestTrial(t *testing.T) {
	certificate, err := trialCertificate()
	if err != nil {
		t.Fatal(err)
	}
	all := Support{known: 1<<len(suites) - 1, Rekey: true}
	broken := errors.New("broken")
	tests := []struct {
		name     string
		support  Support
		setup    func(*fakeKernel)
		sendFile bool
		rekey    bool
		err      error
	}{
		{name: "all", support: all, sendFile: true, rekey: true},
		{name: "no rekey", support: Support{known: all.known}, sendFile: true},
		{name: "connection without rekey", support: all, setup: func(k *fakeKernel) { k.rekeyErr = broken }, sendFile: true},
		{name: "no sendfile", support: all, setup: func(k *fakeKernel) { k.noSendFile = true }, rekey: true},
		{name: "part of the file", support: all, setup: func(k *fakeKernel) { k.MaxFile = 1000 }, sendFile: true, rekey: true},
		{name: "cipher", support: Support{known: 1 << 31}, err: errors.ErrUnsupported},
		{name: "refused", support: all, setup: func(k *fakeKernel) { k.setKeyErr = broken }, err: broken},
	}
	for _, test := range tests {
		for i := range suites {
			s := &suites[i]
			if s.version == tls.VersionTLS12 && strings.Contains(tls.CipherSuiteName(s.id), "_RSA_") {
				continue // the certificate is one for ECDSA
			}
			t.Run(test.name+"/"+s.String(), func(t *testing.T) {
				got := Trial{Version: s.version, Cipher: s.cipher()}
				err := got.run(s, certificate, func(server *Server) {
					server.supported = func() (Support, State) { return supportedBy(test.support) }
					server.newKernel = func(tcp *net.TCPConn) kernel {
						k := newFakeKernel(t, tcp)
						if test.setup != nil {
							test.setup(k)
						}
						return k
					}
				})
				testutil.WantError(t, err, test.err)
				want := Trial{
					Version: s.version, Cipher: s.cipher(),
					SendFile: test.sendFile, Rekey: test.rekey && s.version == tls.VersionTLS13,
				}
				if got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		}
	}
}

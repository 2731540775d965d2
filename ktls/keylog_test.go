package ktls

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

const (
	random64 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	secret64 = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
)

func TestParseKeyLogLine(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		secret     bool
	}{
		{"traffic secret", labelTrafficSecret + " " + random64 + " " + secret64 + "\n", true},
		{"handshake secret", "SERVER_HANDSHAKE_TRAFFIC_SECRET " + random64 + " " + secret64 + "\n", false},
		{"without newline", labelTrafficSecret + " " + random64 + " " + secret64, true},
		{"the client's", "CLIENT_TRAFFIC_SECRET_0 " + random64 + " " + secret64 + "\n", false},
		{"TLS 1.2", labelMasterSecret + " " + random64 + " " + secret64 + "\n", true},
		{"later generation", "SERVER_TRAFFIC_SECRET_1 " + random64 + " " + secret64 + "\n", false},
		{"odd digits", labelTrafficSecret + " " + random64 + " " + secret64[1:] + "\n", false},
		{"no digits", labelTrafficSecret + " " + random64 + " " + strings.Repeat("x", 64) + "\n", false},
		{"empty secret", labelTrafficSecret + " " + random64 + " \n", false},
		{"two fields", labelTrafficSecret + " " + secret64 + "\n", false},
		{"four fields", labelTrafficSecret + " " + random64 + " " + secret64 + " x\n", false},
		{"two lines", labelTrafficSecret + " " + random64 + " " + secret64 + "\n\n", false},
		{"empty", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ""
			if tt.secret {
				want = secret64
			}
			if secret := parseKeyLogLine([]byte(tt.line)); hex.EncodeToString(secret) != want {
				t.Errorf("got %x, want %s", secret, want)
			}
		})
	}
}

func FuzzParseKeyLogLine(f *testing.F) {
	f.Add([]byte(labelTrafficSecret + " " + random64 + " " + secret64 + "\n"))
	f.Add([]byte(labelMasterSecret + " x 0\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		secret := parseKeyLogLine(line)
		if !bytes.Equal(line, before) {
			t.Error("the line was changed")
		}
		label, _, _ := bytes.Cut(line, []byte(" "))
		if secret != nil && string(label) != labelMasterSecret && string(label) != labelTrafficSecret {
			t.Errorf("label %q with secret %x", label, secret)
		}
		// Whatever is accepted can be found in the line again.
		if secret != nil && !strings.HasSuffix(strings.ToLower(strings.TrimSuffix(string(line), "\n")), " "+hex.EncodeToString(secret)) {
			t.Errorf("secret %x is not in the line", secret)
		}
	})
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// A key log that fails ends the handshake in crypto/tls; so it has to be told.
func TestKeyLogError(t *testing.T) {
	want := errors.New("disk full")
	l := &keyLog{counter: &recordCounter{}, next: failingWriter{want}}
	_, err := l.Write([]byte(labelTrafficSecret + " " + random64 + " " + secret64 + "\n"))
	testutil.WantError(t, err, want)
	if hex.EncodeToString(l.counter.key.secret) != secret64 {
		t.Error("the secret was not taken")
	}
}

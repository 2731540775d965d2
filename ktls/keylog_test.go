package ktls

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

const (
	random64 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	secret64 = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
)

func TestParseKeyLogLine(t *testing.T) {
	for _, tt := range []struct {
		name, line, label string // no label: no secret
	}{
		{"traffic secret", labelTrafficSecret + " " + random64 + " " + secret64 + "\n", labelTrafficSecret},
		{"handshake secret", labelHandshakeSecret + " " + random64 + " " + secret64 + "\n", labelHandshakeSecret},
		{"without newline", labelTrafficSecret + " " + random64 + " " + secret64, labelTrafficSecret},
		{"the client's", "CLIENT_TRAFFIC_SECRET_0 " + random64 + " " + secret64 + "\n", ""},
		{"TLS 1.2", labelMasterSecret + " " + random64 + " " + secret64 + "\n", labelMasterSecret},
		{"later generation", "SERVER_TRAFFIC_SECRET_1 " + random64 + " " + secret64 + "\n", ""},
		{"odd digits", labelTrafficSecret + " " + random64 + " " + secret64[1:] + "\n", ""},
		{"no digits", labelTrafficSecret + " " + random64 + " " + strings.Repeat("x", 64) + "\n", ""},
		{"empty secret", labelTrafficSecret + " " + random64 + " \n", ""},
		{"two fields", labelTrafficSecret + " " + secret64 + "\n", ""},
		{"four fields", labelTrafficSecret + " " + random64 + " " + secret64 + " x\n", ""},
		{"two lines", labelTrafficSecret + " " + random64 + " " + secret64 + "\n\n", ""},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			label, secret := parseKeyLogLine([]byte(tt.line))
			want := ""
			if tt.label != "" {
				want = secret64
			}
			if label != tt.label || hex.EncodeToString(secret) != want {
				t.Errorf("got %q, %x; want %q, %s", label, secret, tt.label, want)
			}
		})
	}
}

func FuzzParseKeyLogLine(f *testing.F) {
	f.Add([]byte(labelTrafficSecret + " " + random64 + " " + secret64 + "\n"))
	f.Add([]byte(labelHandshakeSecret + " x 0\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		label, secret := parseKeyLogLine(line)
		if !bytes.Equal(line, before) {
			t.Error("the line was changed")
		}
		if (label == "") != (secret == nil) {
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
	l := &keyLog{rec: &recorder{}, next: failingWriter{want}}
	_, err := l.Write([]byte(labelTrafficSecret + " " + random64 + " " + secret64 + "\n"))
	wantError(t, err, want)
	if hex.EncodeToString(l.rec.secret) != secret64 {
		t.Error("the secret was not taken")
	}
}

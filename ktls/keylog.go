package ktls

import (
	"bytes"
	"encoding/hex"
	"io"
)

// Labels of the NSS key log format, as tls.Config.KeyLogWriter gets it.
const (
	labelMasterSecret    = "CLIENT_RANDOM" // TLS 1.2
	labelHandshakeSecret = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
	labelTrafficSecret   = "SERVER_TRAFFIC_SECRET_0"
)

// A keyLog takes the server's secrets of one connection out of the key
// log. crypto/tls calls Write under a lock that all connections share, so it
// does no more than that.
type keyLog struct {
	rec  *recorder
	next io.Writer // the KeyLogWriter that the configuration had, or nil
}

// Write implements io.Writer for one line. Only the error of the
// configuration's own KeyLogWriter is returned, as without us.
func (l *keyLog) Write(line []byte) (int, error) {
	label, secret := parseKeyLogLine(line)
	if secret != nil {
		l.rec.setSecret(label, secret)
	}
	if l.next != nil {
		return l.next.Write(line)
	}
	return len(line), nil
}

// parseKeyLogLine returns label and secret of "label client_random secret",
// or nothing for a line that is not about the server's records. The client
// random is not looked at: the connection is known, and with Encrypted Client
// Hello it is not the one on the wire.
func parseKeyLogLine(line []byte) (label string, secret []byte) {
	name, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(name) {
	case labelMasterSecret:
		label = labelMasterSecret
	case labelHandshakeSecret:
		label = labelHandshakeSecret
	case labelTrafficSecret:
		label = labelTrafficSecret
	default:
		return "", nil
	}
	_, digits, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	if len(digits) == 0 {
		return "", nil
	}
	secret = make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(secret, digits); err != nil {
		return "", nil
	}
	return label, secret
}

var _ io.Writer = (*keyLog)(nil)

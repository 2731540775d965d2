package ktls

import (
	"bytes"
	"encoding/hex"
	"io"
)

// Labels of the NSS key log format, as tls.Config.KeyLogWriter gets it.
const (
	labelMasterSecret  = "CLIENT_RANDOM" // TLS 1.2
	labelTrafficSecret = "SERVER_TRAFFIC_SECRET_0"
)

// A keyLog takes the secret of the server's application data out of the key log of
// one connection. crypto/tls calls Write under a lock that all connections share, so
// it does no more than that.
type keyLog struct {
	counter *recordCounter
	next    io.Writer // the KeyLogWriter that the configuration had, or nil
}

// Write implements io.Writer for one line. Only the error of the
// configuration's own KeyLogWriter is returned, as without us.
func (l *keyLog) Write(line []byte) (int, error) {
	if secret := parseKeyLogLine(line); secret != nil {
		l.counter.setSecret(secret)
	}
	if l.next != nil {
		return l.next.Write(line)
	}
	return len(line), nil
}

// parseKeyLogLine returns the secret of "label client_random secret", or nil for a
// line with another secret than that of the server's application data. The client
// random is not looked at: the connection is known, and with Encrypted Client
// Hello it is not the one on the wire.
func parseKeyLogLine(line []byte) []byte {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(label) {
	case labelMasterSecret, labelTrafficSecret:
	default:
		return nil
	}
	_, digits, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	if len(digits) == 0 {
		return nil
	}
	secret := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(secret, digits); err != nil {
		return nil
	}
	return secret
}

var _ io.Writer = (*keyLog)(nil)

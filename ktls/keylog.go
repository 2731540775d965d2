package ktls

import (
	"bytes"
	"encoding/hex"
	"io"
)

// Labels of the NSS key log format, in which tls.Config.KeyLogWriter gets its lines.
const (
	labelMasterSecret  = "CLIENT_RANDOM" // TLS 1.2
	labelTrafficSecret = "SERVER_TRAFFIC_SECRET_0"
)

// A keyLog takes the secret of the server's application data out of the key log of one
// connection. crypto/tls calls Write under a lock that all connections share, so it does
// no more than that.
type keyLog struct {
	counter *recordCounter
	next    io.Writer // the KeyLogWriter that the configuration had, or nil
}

// Write implements io.Writer for one line. It returns only the error of the
// configuration's own KeyLogWriter, as without us.
func (l *keyLog) Write(line []byte) (int, error) {
	if secret := parseKeyLogLine(line); secret != nil {
		l.counter.setSecret(secret)
	}
	if l.next != nil {
		return l.next.Write(line)
	}
	return len(line), nil
}

// parseKeyLogLine returns the secret of a line "label client_random secret", or nil if
// the line does not have the secret of the server's application data. The client random
// is ignored: the connection is known, and with Encrypted Client Hello the client random
// is not the one on the wire.
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

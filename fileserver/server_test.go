package fileserver

import (
	"testing"
	"time"
)

func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		timeouts              Timeouts
		handshake, readHeader time.Duration
	}{
		{"none", Timeouts{}, 0, 0},
		{"least", Timeouts{ReadHeader: 3, Read: 2, Write: 4}, 2, 3},
		{"disabled", Timeouts{ReadHeader: -1, Read: 0, Write: 4}, 4, -1},
		{"read stands in", Timeouts{Read: 5}, 5, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.timeouts.handshake(); got != tt.handshake {
				t.Errorf("handshake %v, want %v", got, tt.handshake)
			}
			if got := tt.timeouts.readHeader(); got != tt.readHeader {
				t.Errorf("readHeader %v, want %v", got, tt.readHeader)
			}
		})
	}
}

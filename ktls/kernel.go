package ktls

import (
	"errors"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A kernel is a TCP socket that can be told to make TLS records. It is the one place
// where system calls are made. Methods that send wait for room until the connection's
// write deadline.
type kernel interface {
	// setKey sets the TLS upper layer protocol and the sending key. Records under the key
	// take overhead bytes besides their content. After errInert the socket is as it was.
	// After errDoubtful nobody knows.
	setKey(info []byte, overhead int) error
	// rekey replaces the sending key.
	rekey(info []byte) error
	// records returns how many records were made since setKey, under any key.
	records() uint64
	// send sends application data. With more set, the last record may stay open for the
	// data that follow at once.
	send(p []byte, more bool) (int, error)
	// sendFile sends some of a segment, and nothing ahead. It returns how many bytes it
	// sent, 0 at the end of the file. If that is not the whole segment, the last record
	// may be open. With ErrNoSendfile it has sent nothing. To wait for anything other
	// than room, it uses w.
	sendFile(part filerange.Segment, w waiter) (int64, error)
	// sendFrames sends a segment that is a multiple of payload bytes, with header before
	// each payload. It returns how many bytes of the file it sent. Too few are sent only
	// at the end of the file or with an error. The last record may then be open. After
	// ErrNoSendfile it is open, behind a header.
	sendFrames(header []byte, part filerange.Segment, payload int64) (int64, error)
	// cork makes TCP hold back what does not fill a segment, until cork is turned off or
	// a call that sends has to wait for room.
	cork(on bool)
	// sendControl sends a record other than application data. Unless wait is set, it
	// fails rather than block.
	sendControl(typ recordType, body []byte, wait bool) error
	// unsent returns how many bytes the peer has not acknowledged yet, including what the
	// TLS layer still holds.
	unsent() (int, error)
	// acked returns how many bytes the peer has acknowledged since the connection began.
	// It may be called while another method waits.
	acked() (uint64, error)
}

// A waiter waits on behalf of a connection.
type waiter interface {
	// wait waits until it can receive from ready. It returns an error if the connection is closed
	// first, or its write deadline passes first.
	wait(ready <-chan struct{}) error
}

// Errors of a kernel that callers tell apart.
var (
	errWouldBlock = errors.New("ktls: the send buffer is full")
	errMultipath  = errors.New("ktls: Multipath TCP")
)

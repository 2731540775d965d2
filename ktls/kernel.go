package ktls

import (
	"errors"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A kernel is a TCP socket that can be told to make TLS records: the one place
// where system calls are made. Methods that send wait for room until the
// connection's write deadline.
type kernel interface {
	// setKey sets the TLS upper layer protocol and the sending key, whose
	// records take overhead bytes beside their content. After errInert the
	// socket is as it was; after errDoubtful nobody knows.
	setKey(info []byte, overhead int) error
	// rekey replaces the key.
	rekey(info []byte) error
	// records tells how many records were made since setKey, under any key.
	records() uint64
	// send sends application data. With more set the last record may stay
	// open for the data that follow at once.
	send(p []byte, more bool) (int, error)
	// sendFile sends some of a segment, nothing ahead, and returns how many
	// bytes, 0 at the end of the file. If that is not all, the last record
	// may be left open. With ErrNoSendfile it has sent none. What
	// it waits for beside room, it waits for by w.
	sendFile(part filerange.Segment, w waiter) (int64, error)
	// sendFrames sends a segment that is a multiple of payload bytes, and header
	// before each payload. It returns how many bytes of the file it sent, too few only
	// at the end of the file or with an error, and then the last record may be left
	// open. After ErrNoSendfile it is, behind a header.
	sendFrames(header []byte, part filerange.Segment, payload int64) (int64, error)
	// cork has TCP hold back what does not fill a segment, until it is told
	// otherwise or a call that sends has to wait for room.
	cork(on bool)
	// sendControl sends a record other than application data. Unless wait
	// is set it fails rather than block.
	sendControl(typ recordType, body []byte, wait bool) error
	// unsent tells how many bytes the peer has not acknowledged yet, with what
	// the TLS layer still holds.
	unsent() (int, error)
	// acked tells how many bytes the peer has acknowledged since the connection
	// began. It may be called while another method waits.
	acked() (uint64, error)
}

// A waiter waits in the name of a connection.
type waiter interface {
	// wait waits until ready is closed. It returns an error if before that
	// the connection is closed, or its write deadline passes.
	wait(ready <-chan struct{}) error
}

// Errors of a kernel that mean something.
var (
	errWouldBlock = errors.New("ktls: the send buffer is full")
	errMultipath  = errors.New("ktls: Multipath TCP")
)

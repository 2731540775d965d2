package http2body

import (
	"sync"
	"time"
)

// An insertion is what is inserted into the client's frames. A deadline that has passed
// wakes up a read for it.
type insertion struct {
	mu       sync.Mutex // guards what follows
	inserted []byte
	deadline time.Time // of reads, as the server has set it
	woken    bool      // the connection has another deadline, because of inserted
}

// insert makes the server read frames between those of its client.
func (in *insertion) insert(wire Wire, frames []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.inserted = append(in.inserted, frames...)
	in.woken = true
	_ = wire.SetReadDeadline(time.Unix(1, 0))
}

// wokenUp reports whether a read has timed out because frames were inserted. If so, it
// sets the deadline that the server wants.
func (in *insertion) wokenUp(wire Wire) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.woken {
		return false
	}
	in.woken = false
	_ = wire.SetReadDeadline(in.deadline)
	return true
}

// setDeadline sets the deadline for reading the client's bytes.
func (in *insertion) setDeadline(wire Wire, t time.Time) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.deadline = t
	if in.woken {
		return nil
	}
	return wire.SetReadDeadline(t)
}

// takeInserted returns what was inserted and has not been taken yet.
func (in *insertion) takeInserted() []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	frames := in.inserted
	in.inserted = nil
	return frames
}

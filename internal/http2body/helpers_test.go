package http2body

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// A frame writes a frame.
type frame = func(*http2.Framer) error

// written returns frames, illegal ones included.
func written(write ...frame) []byte {
	return Frames(func(f *http2.Framer) error {
		f.AllowIllegalWrites = true
		for _, w := range write {
			if err := w(f); err != nil {
				panic(err)
			}
		}
		return nil
	})
}

// fromClient returns frames behind the preface.
func fromClient(write ...frame) []byte {
	return append([]byte(http2.ClientPreface), written(write...)...)
}

func settings(settings ...http2.Setting) frame {
	return func(f *http2.Framer) error { return f.WriteSettings(settings...) }
}

func initialSize(n uint32) frame {
	return settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: n})
}

func update(stream, n uint32) frame {
	return func(f *http2.Framer) error { return f.WriteWindowUpdate(stream, n) }
}

func headers(stream uint32, end bool) frame {
	return func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: make([]byte, 20), EndHeaders: true, EndStream: end})
	}
}

func data(stream uint32, end bool, content []byte) frame {
	return func(f *http2.Framer) error { return f.WriteData(stream, end, content) }
}

func raw(typ http2.FrameType, flags http2.Flags, stream uint32, payload []byte) frame {
	return func(f *http2.Framer) error { return f.WriteRawFrame(typ, flags, stream, payload) }
}

func ping(f *http2.Framer) error { return f.WritePing(false, [8]byte{7}) }

func reset(stream uint32) frame {
	return func(f *http2.Framer) error { return f.WriteRSTStream(stream, http2.ErrCodeCancel) }
}

// eventually waits until cond holds, under the connection's lock.
func eventually(c *Conn, cond func() bool) {
	for {
		c.mu.Lock()
		ok := cond()
		c.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// bodies returns the payload of the DATA frames of each stream, and the streams in the
// order of their frames.
func bodies(t testing.TB, b []byte) (payload map[uint32][]byte, order []uint32) {
	t.Helper()
	payload = map[uint32][]byte{}
	for len(b) > 0 {
		if len(b) < frameHeaderLen {
			t.Fatalf("%x is left", b)
		}
		h := parseFrameHeader(b)
		if h.typ == http2.FrameData {
			payload[h.stream] = append(payload[h.stream], b[frameHeaderLen:][:h.length]...)
			order = append(order, h.stream)
		}
		b = b[frameHeaderLen+h.length:]
	}
	return payload, order
}

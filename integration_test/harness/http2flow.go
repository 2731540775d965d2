package harness

import "golang.org/x/net/http2"

// Configure sends settings. All earlier settings must have been acknowledged.
func (h *HTTP2Conn) Configure(settings ...http2.Setting) {
	h.Send(func(f *http2.Framer) error {
		h.flow.unacked = settings
		return f.WriteSettings(settings...)
	})
}

// Settled waits until the settings are acknowledged.
func (h *HTTP2Conn) Settled() {
	h.t.Helper()
	h.Wait("the settings are acknowledged", func() bool { return h.flow.unacked == nil })
}

// acknowledged applies the settings. Caller holds h.mu.
func (h *HTTP2Conn) acknowledged() {
	settings := h.flow.unacked
	h.flow.unacked = nil
	for _, setting := range settings {
		switch setting.ID {
		case http2.SettingMaxFrameSize:
			h.flow.maxFrame = setting.Val
		case http2.SettingInitialWindowSize:
			grown := int64(setting.Val) - h.flow.initial
			h.flow.initial += grown
			for _, s := range h.streams {
				s.Window += grown
				h.open(s)
			}
		}
	}
}

// open opens a stream's window, or the connection's, if it is due. Caller holds h.mu.
func (h *HTTP2Conn) open(s *Stream) {
	if s == nil {
		if n := due(h.flow.window, h.flow.windows.Connection); n > 0 {
			h.grant(nil, n)
		}
	} else if n := due(s.Window, h.flow.windows.Stream); n > 0 && !s.Ended && h.flow.unacked == nil {
		h.grant(s, n)
	}
}

// Grant opens a stream's window, or the connection's if s is nil, by n bytes.
func (h *HTTP2Conn) Grant(s *Stream, n int64) {
	h.Send(func(*http2.Framer) error { h.grant(s, n); return nil })
}

// grant is Grant. Caller holds h.mu.
func (h *HTTP2Conn) grant(s *Stream, n int64) {
	id, window := uint32(0), &h.flow.window
	if s != nil {
		id, window = s.ID, &s.Window
	}
	*window += n
	_ = h.framer.WriteWindowUpdate(id, uint32(n))
}

// Widen opens all windows wide from now on.
func (h *HTTP2Conn) Widen() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flow.windows.Stream, h.flow.windows.Connection = 1<<24, 1<<24
	h.open(nil)
	for _, s := range h.streams {
		h.open(s)
	}
}

// readAll reads until the connection ends.
func (h *HTTP2Conn) readAll() {
	for {
		frame, err := h.framer.ReadFrame()
		h.mu.Lock()
		if err == nil {
			h.take(frame)
		}
		h.Err = err
		h.changed.Broadcast()
		h.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take takes one of the server's frames. Caller holds h.mu.
func (h *HTTP2Conn) take(frame http2.Frame) {
	s := h.streams[frame.Header().StreamID]
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		s.Status = f.PseudoValue("status")
		for _, field := range f.RegularFields() {
			s.Header.Add(field.Name, field.Value)
		}
		s.Ended = s.Ended || f.StreamEnded()
	case *http2.DataFrame:
		h.takeData(s, f)
	case *http2.RSTStreamFrame:
		s.Reset, s.Code = true, f.ErrCode
	case *http2.SettingsFrame:
		if f.IsAck() {
			h.acknowledged()
		} else {
			_ = h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		h.Pings++
	case *http2.GoAwayFrame:
		h.GoAway = f
	}
}

// takeData takes data, and fails the test if the server was not allowed to send them.
// Caller holds h.mu.
func (h *HTTP2Conn) takeData(s *Stream, f *http2.DataFrame) {
	s.Window -= int64(f.Length)
	h.flow.window -= int64(f.Length)
	if f.Length > h.flow.maxFrame || f.Length > 0 && (s.Window < 0 || h.flow.window < 0) || s.Ended || s.Reset {
		h.t.Errorf("stream %d: a frame of %d bytes, of at most %d, leaves the windows %d and %d; ended %v, reset %v",
			s.ID, f.Length, h.flow.maxFrame, s.Window, h.flow.window, s.Ended, s.Reset)
	}
	s.Body = append(s.Body, f.Data()...)
	if f.Length == ownFrame || f.Length == OwnFileFrame {
		s.own++
	}
	s.Ended = s.Ended || f.StreamEnded()
	h.open(s)
	h.open(nil)
}

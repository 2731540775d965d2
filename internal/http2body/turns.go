package http2body

import "slices"

// turns say who writes to the connection. Conn.mu guards all fields.
type turns struct {
	busy     bool            // somebody has the turn
	writing  bool            // the server has the turn
	between  bool            // the server is not in the middle of a frame or a header block
	servers  []chan struct{} // writes of the server that wait; each is closed when its turn comes
	queue    []*Stream       // streams that wait and have window of their own, in order of arrival
	filling  *Stream         // the server is sending a filler on it, see Stream.fill
	awaiting int             // streams that wait for the server, see Stream.AwaitServer
}

// beginWrite takes the turn for the server.
func (c *Conn) beginWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.busy {
		ready := make(chan struct{})
		c.servers = append(c.servers, ready)
		c.mu.Unlock()
		<-ready
		c.mu.Lock()
	}
	c.busy, c.writing = true, true
	return c.err
}

func (c *Conn) endWrite(between bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.writing, c.between = false, false, between
	if c.awaiting > 0 {
		for _, s := range c.streams {
			if s.awaiting {
				s.through = s.passed
				s.notify()
			}
		}
	}
	c.dispatch()
}

// turnFrames is how many frames a stream sends in one turn.
const turnFrames = 4

// takeTurn waits for window and for the turn, and takes both, for up to most bytes. It
// returns for how many bytes. The caller must send them in frames and then call endTurn.
// need is how many of the bytes must be sent. If that is 0 and takeTurn would have to
// wait, it returns 0.
func (s *Stream) takeTurn(need, most int64) (int64, error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.need = need
	for {
		if err := s.ended(); err != nil {
			c.leave(s)
			return 0, err
		}
		if s.turn {
			if n := c.spendTurn(s, most); n > 0 {
				return n, nil
			}
		}
		if c.filling == s {
			if err := s.fill(); err != nil {
				c.leave(s)
				return 0, err
			}
			continue
		}
		if !c.ask(s) {
			return 0, nil
		}
		if !s.turn && c.filling != s {
			s.waitUncorked()
		}
	}
}

// spendTurn takes window for a stream that has the turn. If the window has gone
// meanwhile, it gives up the turn and returns 0. Caller holds c.mu.
func (c *Conn) spendTurn(s *Stream, most int64) int64 {
	s.turn = false
	n := min(most, turnFrames*maxPayload, c.streamWindow(&s.account), c.free(&s.account))
	if n <= 0 {
		c.busy = false
		return 0
	}
	c.spend(&s.account, n)
	return n
}

// ask queues a stream that has window of its own, and gives the turn to whoever is next.
// It returns false if the stream would have to wait but need not send. Caller holds c.mu.
func (c *Conn) ask(s *Stream) bool {
	if !s.queued && c.streamWindow(&s.account) > 0 {
		if s.need == 0 && (c.busy || len(c.queue) > 0 || len(c.servers) > 0) {
			return false
		}
		c.enqueue(s)
	}
	c.dispatch()
	if s.need == 0 && !s.turn && c.filling != s {
		c.leave(s)
		return false
	}
	return true
}

// endTurn ends the turn. unsent is how many of the bytes of takeTurn were not sent: all
// of them or none.
func (s *Stream) endTurn(unsent int64) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refund(&s.account, unsent)
	c.busy = false
	c.dispatch()
}

// dispatch gives the turn to whoever is next. Caller holds c.mu.
func (c *Conn) dispatch() {
	for !c.busy && c.err == nil {
		if len(c.servers) > 0 {
			c.busy, c.writing = true, true
			close(c.servers[0])
			c.servers = c.servers[1:]
			return
		}
		if len(c.queue) == 0 {
			c.trimAll()
			c.helpServer()
			return
		}
		i := c.next()
		s := c.queue[i]
		switch {
		case s.ended() != nil, c.streamWindow(&s.account) <= 0: // the stream finds out by itself
		case !c.between:
			return
		case c.free(&s.account) > 0:
			c.busy, s.turn = true, true
		case c.filling == nil && c.server > 0 && c.fillable(&s.account, s.need) > 0:
			c.filling = s
		case c.trimAll():
			continue
		default: // the client has to grant more
			c.helpServer()
			return
		}
		c.queue = slices.Delete(c.queue, i, i+1)
		s.queued = false
		s.notify()
		if c.filling == s {
			return
		}
	}
}

// next returns the index of the stream in the queue that is next. A stream that has a
// reserve has waited before, and needs nothing of what others wait for. Caller holds
// c.mu.
func (c *Conn) next() int {
	if c.reserved == 0 {
		return 0
	}
	return max(slices.IndexFunc(c.queue, func(s *Stream) bool { return s.reserve > 0 }), 0)
}

// helpServer tells the server of window that no stream can use now. Caller holds c.mu.
func (c *Conn) helpServer() {
	switch s := c.filling; {
	case s == nil && c.short():
		c.topUp()
	case s != nil && c.server == 0:
		if n := c.lend(&s.account); n > 0 {
			c.in.insert(c.wire, windowUpdate(0, n))
		}
	}
}

// trimAll lets others have the reserves of streams without window, if the server has no
// window. It reports whether there were any. Caller holds c.mu.
func (c *Conn) trimAll() bool {
	before := c.reserved
	if c.server == 0 && before > 0 {
		for _, s := range c.streams {
			c.trim(&s.account)
		}
	}
	return c.reserved < before
}

// payDebts pays the debts to streams from what was granted. Caller holds c.mu.
func (c *Conn) payDebts() {
	if c.debts == 0 {
		return
	}
	for _, s := range c.streams {
		c.pay(&s.account)
	}
}

// enqueue puts a stream into the queue. Caller holds c.mu.
func (c *Conn) enqueue(s *Stream) {
	s.queued = true
	c.queue = append(c.queue, s)
}

// leave takes a stream out of the queue, and makes it give back its turn. Caller holds
// c.mu.
func (c *Conn) leave(s *Stream) {
	if s.queued {
		s.queued = false
		c.queue = slices.DeleteFunc(c.queue, func(other *Stream) bool { return other == s })
	}
	if s.turn {
		s.turn, c.busy = false, false
	}
	c.stopFilling(s)
	c.dispatch()
}

// wakeAll wakes everybody after the connection has failed. Caller holds c.mu.
func (c *Conn) wakeAll() {
	for _, ready := range c.servers {
		close(ready)
	}
	c.servers = nil
	c.notifyAll()
}

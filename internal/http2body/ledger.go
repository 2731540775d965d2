package http2body

const (
	// maxWindow is the largest window, in bytes (RFC 9113, section 6.9.1).
	maxWindow = 1<<31 - 1
	// initialWindow is the size of every window at first (RFC 9113, section 6.9.2).
	initialWindow = 65_535
	// serverShare is how much of the connection's window the server has, in bytes, if
	// there is enough. It uses that for bodies that are small or of unknown length.
	serverShare = 1 << 20
)

// A ledger keeps account of the connection's window, and of the streams' initial window.
// Conn.mu guards it, and the accounts.
type ledger struct {
	window   int64 // what the client has granted and nobody has used
	server   int64 // the part of window that the server knows of
	reserved int64 // the part of the rest that belongs to single streams
	initial  int64 // the client's SETTINGS_INITIAL_WINDOW_SIZE
	next     int64 // the same, once the server has acknowledged all settings
	pending  []pendingInitial
	told     int64 // the initial window that the server was told
	taken    int   // streams that were taken over
	filler   int64 // what the server is still to write for nothing, see Stream.fill
	debts    int64 // the sum of all accounts' debts
	released bool  // the server gets everything
}

func newLedger() ledger {
	return ledger{window: initialWindow, server: initialWindow, initial: initialWindow, next: initialWindow, told: initialWindow}
}

// An account is a stream's part of a ledger. Windows of streams are relative to the
// initial window, which may change, so they can become negative.
type account struct {
	granted int64 // increments, less the payload that was sent
	server  int64 // increments that the server was told of, less the payload that it has sent
	reserve int64 // filler, less what was sent for it, see ledger.reserved
	debt    int64 // what others have used of the reserve
}

// grant adds an increment of the client, unless the window would become too large.
func (l *ledger) grant(n int64) bool {
	if l.window+n > maxWindow {
		return false
	}
	l.window += n
	return true
}

// share returns how much the server should know of. While a stream is taken over, that is
// not all of a small window.
func (l *ledger) share() int64 {
	switch {
	case l.released:
		return l.window
	case l.taken > 0:
		return min(serverShare, (l.window+3)/4)
	}
	return min(serverShare, l.window)
}

// owed returns how much more the server should be told of. While it writes a filler, it
// should have no more window than the filler needs: then nothing is left over if other
// streams have used some of it.
func (l *ledger) owed() int64 {
	share := l.share()
	if l.filler > 0 {
		share = min(share, l.filler)
	}
	return max(min(share-l.server, l.pool()), 0)
}

// short reports whether the server knows of so little window that it should be told of
// more at once.
func (l *ledger) short() bool { return 2*l.server < l.share() }

// tell notes that the server is told of an increment.
func (l *ledger) tell(n int64) { l.server += n }

// serverSent notes that the server has sent payload. a is nil if the stream is not known.
func (l *ledger) serverSent(a *account, n int64) {
	l.window -= n
	l.server -= n
	if a != nil {
		a.granted -= n
		a.server -= n
	}
}

// swallowed notes that the server has sent payload that does not reach the client. The
// window that it used for the payload belongs to the stream.
func (l *ledger) swallowed(a *account, n int64) {
	l.server -= n
	a.server -= n
	l.keep(a, n)
}

// keep adds to a stream's reserve.
func (l *ledger) keep(a *account, n int64) {
	a.reserve += n
	l.reserved += n
}

// owe turns n bytes of a stream's reserve into debt. The stream gets them back from what
// the client grants next.
func (l *ledger) owe(a *account, n int64) {
	l.keep(a, -n)
	l.addDebt(a, n)
}

func (l *ledger) addDebt(a *account, n int64) {
	a.debt += n
	l.debts += n
}

// pay pays a stream's debt, as far as the stream can use that.
func (l *ledger) pay(a *account) {
	if n := min(a.debt, l.pool(), l.streamWindow(a)-a.reserve); n > 0 {
		l.owe(a, -n)
	}
}

// trim takes from a stream the reserve that it can't use after its window became smaller.
func (l *ledger) trim(a *account) {
	if n := a.reserve - max(l.streamWindow(a), 0); n > 0 {
		l.owe(a, n)
	}
}

// lend returns the increment that the server needs to go on with a stream's filler when
// other streams have used the window for it.
func (l *ledger) lend(a *account) int64 {
	n := max(min(l.filler-l.server, l.free(a)), 0)
	l.owe(a, max(n-l.pool(), 0))
	l.tell(n)
	return n
}

// fillable returns how much filler is useful for a stream that needs n bytes. All filler
// on a stream together may not be more than the body, or the server refuses it.
func (l *ledger) fillable(a *account, n int64) int64 {
	return min(n-a.debt, l.streamWindow(a)) - a.reserve
}

// pool returns how much of the connection's window belongs to nobody.
func (l *ledger) pool() int64 { return l.window - l.server - l.reserved }

// free returns how much of the connection's window a stream may take.
func (l *ledger) free(a *account) int64 { return l.pool() + a.reserve }

// streamWindow returns how much a stream may send as far as its own window allows.
func (l *ledger) streamWindow(a *account) int64 { return l.initial + a.granted }

// spend takes n bytes from both windows, and uses the reserve first.
func (l *ledger) spend(a *account, n int64) {
	l.window -= n
	a.granted -= n
	reserved := min(n, a.reserve)
	l.keep(a, -reserved)
	l.addDebt(a, -min(a.debt, n-reserved)) // the rest of the body needs less
}

// refund gives back what was spent but not sent. Nothing will be sent on the stream any
// more.
func (l *ledger) refund(a *account, n int64) {
	l.window += n
	a.granted += n
}

// forget gives up the reserve and the debt of a stream that ends.
func (l *ledger) forget(a *account) {
	l.keep(a, -a.reserve)
	l.addDebt(a, -a.debt)
}

// grantStream adds an increment of the client, unless the window would become too
// large.
func (l *ledger) grantStream(a *account, n int64) bool {
	if max(l.initial, l.next)+a.granted+n > maxWindow {
		return false
	}
	a.granted += n
	return true
}

// missing returns how much window on a stream the server must be told of to send n bytes
// on it.
func (l *ledger) missing(a *account, n int64) int64 { return max(n-l.told-a.server, 0) }

// A pendingInitial is the SETTINGS_INITIAL_WINDOW_SIZE after settings that the server has
// not acknowledged yet.
type pendingInitial struct {
	size int64
	over bool // the server has applied the settings
}

// announce is called when the client sends settings, after setInitial.
func (l *ledger) announce() { l.pending = append(l.pending, pendingInitial{size: l.next}) }

// setInitial notes a SETTINGS_INITIAL_WINDOW_SIZE. A client may count on a smaller window
// from the acknowledgment on, and may allow for a larger one only then (RFC 9113, section
// 6.5.3). So the smaller of both holds until the acknowledgment.
//
// It returns the value for the server. The server knows nothing of what was sent on
// streams that were taken over, and may have been told of more window for a filler. So
// the value is reduced until the server does not take the window of such a stream for too
// large. But it is never less than half of the largest window, or the server's other
// streams could wait for ever. If a client has granted a single stream more than that by
// increments, and then raises the initial window, the server may end the connection with
// an error.
func (l *ledger) setInitial(n int64, taken []*account) int64 {
	l.initial, l.next, l.told = min(l.initial, n), n, n
	for _, a := range taken {
		l.told = min(l.told, max(maxWindow-a.server, maxWindow/2))
	}
	return l.told
}

// noted is called when the server has applied all settings so far.
func (l *ledger) noted() {
	for i := range l.pending {
		l.pending[i].over = true
	}
}

// acknowledge is called when the server acknowledges settings: the first that are
// pending, and with them all others that it has applied. golang.org/x/net/http2 does not
// acknowledge settings one by one.
func (l *ledger) acknowledge() {
	if len(l.pending) == 0 {
		return
	}
	l.initial = l.pending[0].size
	l.pending = l.pending[1:]
	for len(l.pending) > 0 && l.pending[0].over {
		l.initial = l.pending[0].size
		l.pending = l.pending[1:]
	}
	for _, p := range l.pending {
		l.initial = min(l.initial, p.size)
	}
	if len(l.pending) == 0 {
		l.pending = nil
	}
}

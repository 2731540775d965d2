package http2body

import (
	"encoding/binary"
	"testing"
)

// The server has what it needs, and while a stream is taken over not all of a small
// window.
func TestLedgerShare(t *testing.T) {
	for _, tt := range []struct {
		name                string
		ledger              ledger
		share, owed, stream int64
		short               bool
	}{
		{name: "at first", ledger: newLedger(), share: 65_535},
		{name: "a little more", ledger: ledger{window: 100_000, server: 65_535}, share: 100_000, owed: 34_465, stream: 34_465},
		{name: "taken over", ledger: ledger{window: 100_000, server: 10_000, taken: 1}, share: 25_000, owed: 15_000, stream: 90_000, short: true},
		{name: "taken over, rounded up", ledger: ledger{window: 5, taken: 1}, share: 2, owed: 2, stream: 5, short: true},
		{name: "taken over, one byte", ledger: ledger{window: 1, taken: 1}, share: 1, owed: 1, stream: 1, short: true},
		{name: "more than its share", ledger: ledger{window: 70_000, server: 65_535, taken: 1}, share: 17_500, stream: 4465},
		{name: "large", ledger: ledger{window: maxWindow, server: 65_535}, share: serverShare, owed: serverShare - 65_535, stream: maxWindow - 65_535, short: true},
		{name: "large and taken over", ledger: ledger{window: maxWindow, server: serverShare, taken: 1}, share: serverShare, stream: maxWindow - serverShare},
		{name: "just half", ledger: ledger{window: maxWindow, server: serverShare / 2}, share: serverShare, owed: serverShare / 2, stream: maxWindow - serverShare/2},
		{name: "less than half", ledger: ledger{window: maxWindow, server: serverShare/2 - 1}, share: serverShare, owed: serverShare/2 + 1, stream: maxWindow - serverShare/2 + 1, short: true},
		{name: "released", ledger: ledger{window: maxWindow, server: 1, released: true}, share: maxWindow, owed: maxWindow - 1, stream: maxWindow - 1, short: true},
		{name: "reserved", ledger: ledger{window: 1000, reserved: 900, taken: 1}, share: 250, owed: 100, stream: 100, short: true},
		{name: "all reserved", ledger: ledger{window: 1000, reserved: 1000, taken: 1}, share: 250, short: true},
		{name: "a filler", ledger: ledger{window: 1000, filler: 10, taken: 1}, share: 250, owed: 10, stream: 1000, short: true},
		{name: "a filler in the end", ledger: ledger{window: 1000, server: 10, filler: 10, taken: 1}, share: 250, stream: 990, short: true},
		{name: "nothing", ledger: ledger{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &tt.ledger
			if got := l.share(); got != tt.share {
				t.Errorf("the share is %d, want %d", got, tt.share)
			}
			if got := l.owed(); got != tt.owed {
				t.Errorf("owed %d, want %d", got, tt.owed)
			}
			if got := l.free(&account{}); got != tt.stream {
				t.Errorf("free %d, want %d", got, tt.stream)
			}
			if got := l.short(); got != tt.short {
				t.Errorf("short %v, want %v", got, tt.short)
			}
		})
	}
}

// A window is refused from 2^31 bytes on.
func TestLedgerOverflow(t *testing.T) {
	for _, tt := range []struct {
		name      string
		window, n int64
		ok        bool
	}{
		{"the largest", 0, maxWindow, true},
		{"up to the largest", initialWindow, maxWindow - initialWindow, true},
		{"one more", initialWindow, maxWindow - initialWindow + 1, false},
		{"one beyond the largest", maxWindow, 1, false},
		{"from below 0", -10, maxWindow, true}, // of streams only
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := ledger{window: tt.window}
			want := tt.window
			if tt.ok {
				want += tt.n
			}
			if got := l.grant(tt.n); got != tt.ok || l.window != want {
				t.Errorf("connection: %v, window %d; want %v, %d", got, l.window, tt.ok, want)
			}
			l = ledger{initial: 100}
			a := account{granted: tt.window - 100}
			if got := l.grantStream(&a, tt.n); got != tt.ok || l.streamWindow(&a) != want {
				t.Errorf("stream: %v, window %d; want %v, %d", got, l.streamWindow(&a), tt.ok, want)
			}
		})
	}
}

func TestSetInitial(t *testing.T) {
	for _, tt := range []struct {
		name   string
		n      int64
		server []int64 // of the accounts
		told   int64
	}{
		{"no stream", maxWindow, nil, maxWindow},
		{"nothing told", maxWindow, []int64{0}, maxWindow},
		{"told", maxWindow, []int64{0, 1000, 10}, maxWindow - 1000},
		{"told half", maxWindow, []int64{maxWindow / 2}, maxWindow - maxWindow/2},
		{"told all", maxWindow, []int64{maxWindow}, maxWindow / 2},
		{"told all, and little now", 70_000, []int64{maxWindow - 10}, 70_000},
		{"sent", maxWindow, []int64{-1000}, maxWindow},
		{"small", 100, []int64{1000}, 100},
		{"none", 0, []int64{maxWindow}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			var taken []*account
			for _, n := range tt.server {
				taken = append(taken, &account{server: n})
			}
			if told := l.setInitial(tt.n, taken); told != tt.told || l.told != tt.told || l.initial != min(tt.n, initialWindow) || l.next != tt.n {
				t.Errorf("told %d (%d), want %d; initial %d", told, l.told, tt.told, l.initial)
			}
		})
	}
}

// A size holds when the settings with it are acknowledged, a smaller one at once.
func TestAcknowledge(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(l *ledger)
		want int64
	}{
		{"larger", func(l *ledger) { announce(l, 70_000) }, initialWindow},
		{"larger, acknowledged", func(l *ledger) { announce(l, 70_000); l.acknowledge() }, 70_000},
		{"smaller", func(l *ledger) { announce(l, 10) }, 10},
		{"smaller and larger", func(l *ledger) { announce(l, 10); announce(l, 70_000) }, 10},
		{"the first acknowledged", func(l *ledger) { announce(l, 10); announce(l, 70_000); l.acknowledge() }, 10},
		{"both acknowledged", func(l *ledger) { announce(l, 10); announce(l, 70_000); l.acknowledge(); l.acknowledge() }, 70_000},
		{"both by one", func(l *ledger) { announce(l, 10); announce(l, 70_000); l.noted(); l.acknowledge() }, 70_000},
		{"larger and smaller, the first acknowledged", func(l *ledger) { announce(l, 70_000); announce(l, 10); l.acknowledge() }, 10},
		{"other settings", func(l *ledger) { l.announce(); announce(l, 70_000); l.acknowledge() }, initialWindow},
		{"nothing", func(l *ledger) { l.acknowledge() }, initialWindow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			if tt.do(&l); l.initial != tt.want {
				t.Errorf("%d, want %d", l.initial, tt.want)
			}
		})
	}
}

func announce(l *ledger, n int64) {
	l.setInitial(n, nil)
	l.announce()
}

// What is spent comes from the reserve first, and pays debt with the rest.
func TestSpend(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		reserve, debt, spent int64
		left, owed           int64
	}{
		{name: "all of the reserve", reserve: 10, spent: 10},
		{name: "some of the reserve", reserve: 10, debt: 5, spent: 4, left: 6, owed: 5},
		{name: "more than the reserve", reserve: 10, debt: 25, spent: 30, owed: 5},
		{name: "more than all", reserve: 10, debt: 5, spent: 30},
		{name: "no reserve", debt: 5, spent: 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			l.server = tt.reserve + tt.debt
			var a account
			l.swallowed(&a, tt.reserve+tt.debt)
			l.owe(&a, tt.debt)
			l.spend(&a, tt.spent)
			if a.reserve != tt.left || l.reserved != tt.left || a.debt != tt.owed || l.debts != tt.owed {
				t.Errorf("%+v of %+v; want a reserve of %d, and debt of %d", a, l, tt.left, tt.owed)
			}
			if l.window != initialWindow-tt.spent || l.streamWindow(&a) != initialWindow-tt.spent {
				t.Errorf("windows %d, %d after %d bytes", l.window, l.streamWindow(&a), tt.spent)
			}
			l.refund(&a, tt.spent)
			if l.window != initialWindow || l.streamWindow(&a) != initialWindow {
				t.Errorf("windows %d, %d in the end", l.window, l.streamWindow(&a))
			}
		})
	}
}

// A modelAccount is what is to be true of an account.
type modelAccount struct {
	account
	ended               bool
	granted, sent       int64
	told, serverSent    int64
	filled, ours, spent int64 // swallowed; sent by us; taken for a turn that isn't over
}

// Whatever happens, nothing is lost, and nobody has more than there is.
func FuzzLedger(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 1, 1, 1})
	f.Add([]byte("\x0a\x03\x00\xff\xff\x04\x00\x10\x00\x05\x01\x02\x00\x06\x00\x02\x00\x00\x7f\xff\x07\x01\x00"))
	for op := range 13 {
		seed := make([]byte, 0, 200)
		for i := range 40 {
			seed = append(seed, byte(op+i*i), byte(i), byte(i%3), byte(i*7), byte(200-i))
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		l := newLedger()
		window, told := int64(initialWindow), int64(initialWindow) // granted and told in all
		var sent, serverSent, swallowed int64
		accounts := []*modelAccount{{}, {}, {}}
		l.taken = 2 // the first of them is the server's
		for len(ops) >= 5 {
			op, a := ops[0]%13, accounts[ops[1]%3]
			ours := accounts[1+ops[1]%2]
			n := int64(binary.BigEndian.Uint16(ops[2:])) << (ops[4] % 17)
			ops = ops[5:]
			switch op {
			case 0:
				ok := l.window+n <= maxWindow
				if l.grant(n) != ok {
					t.Fatalf("%d granted to %d: %v", n, l.window, !ok)
				}
				if ok {
					window += n
				}
			case 1:
				ok := max(l.initial, l.next)+a.account.granted+n <= maxWindow
				if l.grantStream(&a.account, n) != ok {
					t.Fatalf("%d granted to %+v: %v", n, a, !ok)
				}
				if ok {
					a.granted += n
					if a == accounts[0] {
						a.server += n
						a.told += n
					}
				}
			case 2: // the server sends on its own stream, or one that isn't known
				n = min(n, l.server)
				if ops == nil || n%2 == 0 {
					l.serverSent(nil, n)
				} else {
					n = max(min(n, l.told+accounts[0].server), 0)
					l.serverSent(&accounts[0].account, n)
					accounts[0].sent += n
					accounts[0].serverSent += n
				}
				sent += n
				serverSent += n
			case 3, 4: // a filler is swallowed
				if l.filler == 0 || ours.ended {
					continue
				}
				n = min(n, l.server, l.filler)
				l.swallowed(&ours.account, n)
				l.filler -= n
				ours.filled += n
				ours.serverSent += n
				swallowed += n
				serverSent += n
			case 5: // it begins
				if l.filler == 0 && !ours.ended {
					l.filler = max(min(l.fillable(&ours.account, n), l.server), 0)
				}
			case 6:
				if l.filler > 0 && l.server == 0 && !ours.ended {
					told += l.lend(&ours.account)
				}
			case 7, 8:
				if n = min(n, l.streamWindow(&ours.account), l.free(&ours.account)); n > 0 && ours.spent == 0 && !ours.ended {
					l.spend(&ours.account, n)
					ours.spent = n
				}
			case 9, 10:
				if ours.spent == 0 {
					continue
				}
				if n%8 == 0 { // a file is too short: the stream is reset
					l.refund(&ours.account, ours.spent)
					l.forget(&ours.account)
					ours.ended = true
				} else {
					sent += ours.spent
					ours.sent += ours.spent
					ours.ours += ours.spent
				}
				ours.spent = 0
			case 11:
				if n > maxWindow {
					continue
				}
				taken := []*account{&accounts[1].account, &accounts[2].account}
				got := l.setInitial(n, taken)
				if got > n || got < min(n, maxWindow/2) {
					t.Fatalf("%d told of %d", got, n)
				}
				for _, a := range taken {
					if n%2 == 0 {
						l.trim(a)
					}
					if a.server <= maxWindow/2 && got+a.server > maxWindow {
						t.Fatalf("%d told, with %+v", got, a)
					}
				}
			case 12:
				switch n % 5 {
				case 0:
					ours.ended = true
					l.forget(&ours.account)
				default:
					for _, a := range accounts[1:] {
						l.pay(&a.account)
						if l.pool() > 0 && !a.ended && a.debt > 0 && l.streamWindow(&a.account) > a.reserve {
							t.Fatalf("%d bytes of debt, of %+v", a.debt, l)
						}
					}
					n := l.owed()
					if n > 0 && (l.server+n > l.share() || l.filler > 0 && l.server+n > l.filler) {
						t.Fatalf("%d owed by %+v", n, l)
					}
					l.tell(n)
					told += n
				}
			}
			// What is taken for a turn is nobody else's.
			pending := accounts[1].spent + accounts[2].spent
			if l.window != window-sent-pending || l.server != told-serverSent {
				t.Fatalf("op %d: %+v; granted %d, sent %d; told %d, sent by the server %d", op, l, window, sent, told, serverSent)
			}
			if l.server < 0 || l.server > l.window || l.reserved < 0 || l.reserved+l.server > l.window {
				t.Fatalf("op %d: %+v", op, l)
			}
			if l.window > 0 && l.share() <= 0 || l.share() > l.window {
				t.Fatalf("op %d: share %d of %+v", op, l.share(), l)
			}
			var reserved, debts int64
			for _, a := range accounts {
				reserved += a.reserve
				debts += a.debt
				if got, want := l.streamWindow(&a.account), l.initial+a.granted-a.sent-a.spent; got != want {
					t.Fatalf("op %d: stream's window %d, want %d", op, got, want)
				}
				// No more filler is ever asked for than was and will be sent.
				if !a.ended && (a.reserve < 0 || a.filled > a.ours+a.reserve+a.debt+a.spent) {
					t.Fatalf("op %d: %+v", op, a)
				}
			}
			if reserved != l.reserved || debts != l.debts {
				t.Fatalf("op %d: %d reserved and %d of debt of %+v", op, reserved, debts, l)
			}
		}
	})
}

// What is lent of a reserve is the stream's again when the client grants more.
func TestLend(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		window, filler        int64
		lent, reserve, debt   int64
		granted, paid, server int64 // then paid to the stream, and owed to the server
	}{
		{"of the pool", 300, 100, 100, 100, 0, 100, 0, 75},
		{"of the reserve", 100, 40, 40, 60, 40, 30, 30, 0},
		{"of both", 150, 80, 80, 70, 30, 50, 30, 20},
		{"all there is", 100, 400, 100, 0, 100, 400, 100, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			l.window, l.server, l.taken = tt.window, 100, 1
			var a account
			l.swallowed(&a, 100)
			l.filler = tt.filler
			if n := l.lend(&a); n != tt.lent || l.server != n || a.reserve != tt.reserve || a.debt != tt.debt || l.debts != tt.debt {
				t.Errorf("%d lent, %+v, %+v", n, a, l)
			}
			l.serverSent(nil, l.server) // others use it
			l.grant(tt.granted)
			l.pay(&a)
			if n := l.owed(); a.reserve-tt.reserve != tt.paid || n != tt.server {
				t.Errorf("%d bytes paid, %d owed: %+v", a.reserve-tt.reserve, n, l)
			}
		})
	}
}

package benchmark

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// A progress is a line on a terminal that says how long it may still take.
type progress struct {
	to    io.Writer // nil if nobody looks
	turns int       // that are left
	left  time.Duration
	begun time.Time // of the turn
}

func newProgress(to io.Writer, o *options) *progress {
	n := len(o.protocols) * len(sides)
	p := &progress{turns: n * (rounds + 1), left: time.Duration(n) * (o.time + warmUp), begun: time.Now()}
	if f, ok := to.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.to = f
	}
	return p
}

func (p *progress) show(what string) {
	if p.to != nil {
		fmt.Fprintf(p.to, "\r\x1b[K%s: about %v left", what, p.left.Round(time.Second))
	}
}

// turn notes that a turn is over. The others take as long at least.
func (p *progress) turn() {
	p.turns--
	p.left = max(p.left*time.Duration(p.turns)/time.Duration(p.turns+1), time.Since(p.begun)*time.Duration(p.turns))
	p.begun = time.Now()
}

// end removes the line.
func (p *progress) end() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}

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
	total time.Duration
	begun time.Time
}

func newProgress(to io.Writer, o *options) *progress {
	p := &progress{total: time.Duration(len(o.protocols)) * 2 * (o.time + warmUp), begun: time.Now()}
	if f, ok := to.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.to = f
	}
	return p
}

func (p *progress) show(what, protocol, side string) {
	if p.to == nil {
		return
	}
	left := max(0, p.total-time.Since(p.begun)).Round(time.Second)
	fmt.Fprintf(p.to, "\r\x1b[K%s, %s, %s: about %v left", protocol, what, side, left)
}

// end removes the line.
func (p *progress) end() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}

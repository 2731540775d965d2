package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/perf/benchunit"
)

// A progress tells how far a run is and how long the rest may take: estimates
// of the steps, corrected by how long the ones so far have taken.
type progress struct {
	w           io.Writer
	start       time.Time
	steps       int
	doneSteps   int
	total, done float64 // seconds, as estimated before
}

func newProgress(w io.Writer, steps int, seconds float64) *progress {
	p := &progress{w: w, start: time.Now(), steps: steps, total: seconds}
	fmt.Fprintf(w, "%d measurements, about %s; Ctrl-C ends it and keeps what is done\n", steps, roughly(seconds))
	return p
}

// step says that a step is done, and what has come of it.
func (p *progress) step(s step, sample *Sample) {
	p.doneSteps++
	p.done += s.estimate
	found := "not measured"
	if sample != nil {
		var words []string
		for _, unit := range slices.Sorted(maps.Keys(sample.Values)) {
			words = append(words, benchunit.Scale(sample.Values[unit], benchunit.ClassOf(unit))+" "+unit)
		}
		found = strings.Join(words, ", ")
	}
	// At the beginning the estimate is all there is.
	const prior = 30
	left := max(0, p.total-p.done) * (time.Since(p.start).Seconds() + prior) / (p.done + prior)
	fmt.Fprintf(p.w, "[%d/%d, %s left] %-4s %s: %s\n", p.doneSteps, p.steps, roughly(left), s.Kernel, s.Case, found)
}

func roughly(seconds float64) time.Duration {
	return time.Duration(seconds) * time.Second
}

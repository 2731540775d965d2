package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A line is one line of the text.
type line struct {
	Topic string   `json:"topic"`
	State string   `json:"state"`
	Text  string   `json:"text"`
	Todo  []string `json:"todo"`
}

// The states of a line.
const (
	stateOK   = "ok"
	stateNote = "note"
	stateWarn = "warn"
	stateFail = "fail"
)

// A report has the facts and what they mean.
type report struct {
	Works   bool   `json:"works"`
	Verdict string `json:"verdict"`
	facts
	Lines []line `json:"lines"`
}

func newReport(f facts) *report {
	r := &report{facts: f, Lines: []line{}}
	if f.OS != "linux" {
		r.Verdict = "no kernel TLS: it is a feature of Linux, and this is " + f.OS
		return r
	}
	r.judgeKernel()
	r.judgeContainer()
	r.judgeGo()
	if r.anyCipher(inert) {
		r.judgeSandbox()
	} else {
		r.judgeModule()
		r.judgeCiphers()
	}
	r.judgeHTTP()
	r.judgeDescriptors()
	r.judgeNetwork()
	return r
}

func (r *report) add(topic, state, text string, todo ...string) {
	r.Lines = append(r.Lines, line{topic, state, text, append([]string{}, todo...)})
}

func (r *report) writeText(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.Lines {
		state := l.State
		if state == stateFail {
			state = "FAIL"
		}
		fmt.Fprintf(&b, "%-11s %-5s %s\n", l.Topic, state, l.Text)
		for _, todo := range l.Todo {
			fmt.Fprintf(&b, "%-11s %-5s -> %s\n", "", "", todo)
		}
	}
	fmt.Fprintf(&b, "verdict: %s\n", r.Verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

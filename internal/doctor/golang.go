package doctor

import (
	goversion "go/version"
	"strings"
)

type goFacts struct {
	Version string       `json:"version"` // as runtime.Version
	Faults  []knownFault `json:"faults"`
}

// builtBy returns what is known of a version of Go, which may have more with it, as
// in "devel go1.27-9b1a2c3 Mon Jun 1" or "go1.26.5 X:nodwarf5". Of what it doesn't
// understand it knows no faults.
func builtBy(text string) goFacts {
	facts := goFacts{Version: text, Faults: []knownFault{}}
	for field := range strings.FieldsSeq(text) {
		if goversion.IsValid(field) && goversion.Compare(field, "go1.26.6") < 0 {
			facts.Faults = append(facts.Faults, knownFault{
				ID:     "CVE-2026-56862",
				What:   "a client can keep the server busy by KeyUpdates without end; fixed in Go 1.26.6",
				Source: "https://golang.org/issue/80528",
			})
		}
	}
	return facts
}

func (r *report) judgeGo() {
	if len(r.Go.Faults) == 0 {
		return
	}
	var todo []string
	for _, f := range r.Go.Faults {
		todo = append(todo, f.String())
	}
	r.add("Go", stateWarn, r.Go.Version+", which built this, has known faults in TLS", append(todo, "build with the newest Go")...)
}

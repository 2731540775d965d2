package doctor

import (
	goversion "go/version"
	"strings"
)

type goFacts struct {
	Version string       `json:"version"` // as runtime.Version
	FIPS    bool         `json:"fips"`    // it is in FIPS mode
	Faults  []knownFault `json:"faults"`
}

// builtBy returns the known faults of the Go that a text of runtime.Version names. The
// text may have more than a version, as in "devel go1.27-9b1a2c3 Mon Jun 1" or "go1.26.5
// X:nodwarf5". If it has no version, no faults are known.
func builtBy(text string) goFacts {
	facts := goFacts{Version: text, Faults: []knownFault{}}
	for field := range strings.FieldsSeq(text) {
		if goversion.IsValid(field) && goversion.Compare(field, "go1.26.6") < 0 {
			facts.Faults = append(facts.Faults, knownFault{
				ID:     "CVE-2026-56862",
				What:   "a client can keep the server busy with endless KeyUpdates; fixed in Go 1.26.6",
				Source: "https://golang.org/issue/80528",
			})
		}
	}
	return facts
}

func (r *report) judgeGo() {
	if r.Go.FIPS {
		r.add("Go", stateNote, "in FIPS mode: without "+chaCha)
	}
	if len(r.Go.Faults) == 0 {
		return
	}
	var todo []string
	for _, f := range r.Go.Faults {
		todo = append(todo, f.String())
	}
	r.add("Go", stateWarn, r.Go.Version+", which built this, has known faults in TLS", append(todo, "build with the newest Go")...)
}

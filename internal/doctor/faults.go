package doctor

import (
	goversion "go/version"
	"strings"
)

// A fault is one of the kernel or of Go, in what this module uses of it.
type fault struct {
	ID     string `json:"id"`
	What   string `json:"what"`
	Source string `json:"source"`

	// The first release of the kernel of each branch that has the fix, in
	// ascending order. Branches in between and before have none; later ones are
	// born with it.
	fixed []version
}

func (f fault) String() string { return f.ID + ": " + f.What + ", " + f.Source }

// knownFaults are those that can be reached when the kernel encrypts what is
// sent. The versions are those of the kernel's own CVE records, as OSV has them.
// Of what has no such record, they are those whose announcement on the mailing list
// stable@vger.kernel.org, of 23 and 29 October 2025, lists the commit.
var knownFaults = []fault{
	{
		ID:     "CVE-2026-23240",
		What:   "use after free when a connection is closed while it sends",
		Source: "https://osv.dev/vulnerability/CVE-2026-23240",
		fixed:  []version{{6, 12, 75}, {6, 18, 16}, {6, 19, 6}},
	},
	{
		ID:     "CVE-2026-31533",
		What:   "use after free when the queue of an asynchronous cipher is full",
		Source: "https://osv.dev/vulnerability/CVE-2026-31533",
		fixed:  []version{{5, 15, 203}, {6, 1, 169}, {6, 6, 135}, {6, 12, 82}, {6, 18, 23}, {6, 19, 13}},
	},
	{
		ID:     "54001d0f2fdb",
		What:   "with an asynchronous cipher, the last data may be lost at close",
		Source: "https://git.kernel.org/linus/54001d0f2fdb",
		fixed:  []version{{5, 15, 196}, {6, 1, 158}, {6, 6, 114}, {6, 12, 0}},
	},
	{
		ID:     "7f846c65ca11",
		What:   "with an asynchronous cipher, a large send may take much memory and time",
		Source: "https://git.kernel.org/linus/7f846c65ca11",
		fixed:  october2025,
	},
	{
		ID:     "b014a4e066c5",
		What:   "with an asynchronous cipher, memory is read when a send has failed already",
		Source: "https://git.kernel.org/linus/b014a4e066c5",
		fixed:  october2025[2:], // 5.4 and 5.10 have none
	},
	{
		ID:     "b6fe4c29bb51",
		What:   "with an asynchronous cipher, an alert or a KeyUpdate may be sent as data",
		Source: "https://git.kernel.org/linus/b6fe4c29bb51",
		fixed:  october2025,
	},
}

func (f fault) in(v version) bool {
	for _, fixed := range f.fixed {
		if fixed[0] == v[0] && fixed[1] == v[1] {
			return v.less(fixed)
		}
	}
	return v.less(f.fixed[len(f.fixed)-1])
}

func faultsOf(v version) []fault {
	faults := []fault{}
	for _, f := range knownFaults {
		if f.in(v) {
			faults = append(faults, f)
		}
	}
	return faults
}

var october2025 = []version{
	{5, 4, 301}, {5, 10, 246}, {5, 15, 196}, {6, 1, 158}, {6, 6, 114}, {6, 12, 55}, {6, 17, 5}, {6, 18, 0},
}

// builtBy returns what is known of a version of Go, which may have more with it, as
// in "devel go1.27-9b1a2c3 Mon Jun 1" or "go1.26.5 X:nodwarf5". Of what it doesn't
// understand it knows no faults.
func builtBy(text string) goFacts {
	facts := goFacts{Version: text, Faults: []fault{}}
	for field := range strings.FieldsSeq(text) {
		if goversion.IsValid(field) && goversion.Compare(field, "go1.26.6") < 0 {
			facts.Faults = append(facts.Faults, fault{
				ID:     "CVE-2026-56862",
				What:   "a client can keep the server busy by KeyUpdates without end; fixed in Go 1.26.6",
				Source: "https://golang.org/issue/80528",
			})
		}
	}
	return facts
}

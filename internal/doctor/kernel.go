package doctor

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

type kernelFacts struct {
	Release string       `json:"release"` // as uname -r
	Version string       `json:"version"`
	FIPS    bool         `json:"fips"` // it is in FIPS mode
	Faults  []knownFault `json:"faults"`
}

func (r *report) judgeKernel() {
	state, text := stateOK, r.Kernel.Release
	var todo []string
	switch {
	case r.Kernel.Version == "":
		state = stateNote
		text += ": the distribution's own number, which does not tell which faults are fixed; keep the kernel up to date"
	case !strings.HasPrefix(text, r.Kernel.Version):
		text += " (" + r.Kernel.Version + ")"
	}
	for _, f := range r.Kernel.Faults {
		todo = append(todo, f.String())
	}
	if len(todo) > 0 {
		state = stateWarn
		text += " has known faults in kernel TLS, unless the distribution has fixed them"
	}
	if v, _ := upstreamVersion(r.Kernel.Release, ""); v.less(recommended) {
		state = stateWarn
		todo = append(todo, "a maintained kernel from 6.6 on is recommended: kernel TLS has had security bugs in older ones")
	} else if len(todo) > 0 {
		todo = append(todo, "install the newest kernel that the distribution has")
	}
	r.add("kernel", state, text, todo...)
	if r.Kernel.FIPS {
		r.add("kernel", stateNote, "in FIPS mode: without "+chaCha+"; such connections stay in user space")
	}
}

// recommended is the first version for which kernel TLS is recommended, see README.md.
var recommended = version{6, 6, 0}

// A version is a kernel's version, such as 6.12.107.
type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool { return slices.Compare(v[:], w[:]) < 0 }

var debianVersion = regexp.MustCompile(`\bDebian (\d+\.\d+\.\d+)-`)

// upstreamVersion returns the kernel's version, and whether it shows which fixes the
// kernel has. release is what uname -r prints, and build is what uname -v prints. Some
// distributions keep a version and add fixes, as with 6.8.0-45-generic. Where Debian does
// so, build has the real version.
func upstreamVersion(release, build string) (v version, ok bool) {
	if m := debianVersion.FindStringSubmatch(build); m != nil {
		release = m[1]
	}
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &v[0], &v[1], &v[2]); n < 2 {
		return v, false
	}
	number := fmt.Sprintf("%d.%d.0", v[0], v[1])
	return v, !strings.HasPrefix(release, number+"-")
}

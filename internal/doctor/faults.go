package doctor

// A knownFault is a known fault of the kernel or of Go, in a part that this module uses.
type knownFault struct {
	ID     string `json:"id"`
	What   string `json:"what"`
	Source string `json:"source"`

	// The first kernel release with the fix in each branch, in ascending order. Branches
	// in between and before have no fix. Later branches have had it from the start.
	fixed []version
}

func (f knownFault) String() string { return f.ID + ": " + f.What + ", " + f.Source }

// kernelFaults are the faults that can be reached when the kernel encrypts what is sent.
// The versions come from the kernel's own CVE records, as OSV has them. For a fault
// without such a record, they are the versions whose announcement on the mailing list
// stable@vger.kernel.org, of 23 and 29 October 2025, lists the commit.
var kernelFaults = []knownFault{
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
		fixed:  october2025[2:], // 5.4 and 5.10 have no fix
	},
	{
		ID:     "b6fe4c29bb51",
		What:   "with an asynchronous cipher, an alert or a KeyUpdate may be sent as data",
		Source: "https://git.kernel.org/linus/b6fe4c29bb51",
		fixed:  october2025,
	},
}

// in reports whether a version of the kernel has the fault.
func (f knownFault) in(v version) bool {
	for _, fixed := range f.fixed {
		if fixed[0] == v[0] && fixed[1] == v[1] {
			return v.less(fixed)
		}
	}
	return v.less(f.fixed[len(f.fixed)-1])
}

func kernelFaultsOf(v version) []knownFault {
	faults := []knownFault{}
	for _, f := range kernelFaults {
		if f.in(v) {
			faults = append(faults, f)
		}
	}
	return faults
}

var october2025 = []version{
	{5, 4, 301}, {5, 10, 246}, {5, 15, 196}, {6, 1, 158}, {6, 6, 114}, {6, 12, 55}, {6, 17, 5}, {6, 18, 0},
}

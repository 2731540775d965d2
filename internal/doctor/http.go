package doctor

// An HTTPFault is something that package fileserver relies on, but this build's Go or
// Caddy does not do. The self-test of fileserver finds it.
type HTTPFault struct {
	Protocol string `json:"protocol"` // HTTP/1.1 or HTTP/2
	What     string `json:"fault"`
	// Copied says that all files over that protocol are copied because of the fault.
	// If it is false, sending them only takes more work.
	Copied bool `json:"copied"`
}

func (f HTTPFault) String() string {
	if f.Copied {
		return "files over " + f.Protocol + " are copied: " + f.What
	}
	return "files over " + f.Protocol + " take more work: " + f.What
}

// TakeNewer says what to do if Go or Caddy has changed.
const TakeNewer = "build Caddy with a newer version of this module, because Go or Caddy has changed. " +
	"If there is none, please open an issue"

func (r *report) judgeHTTP() {
	for _, f := range r.HTTP {
		r.add("http", stateWarn, f.String(), TakeNewer)
	}
	if len(r.HTTP) == 0 {
		r.add("http", stateOK, "Go and Caddy in this build do what sendfile needs")
	}
}

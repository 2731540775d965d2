package doctor

// An HTTPFault is something that this build's Go or Caddy does not do, though
// sending files builds on it: what a self-test of package fileserver has found.
type HTTPFault struct {
	Protocol string `json:"protocol"` // HTTP/1.1 or HTTP/2
	What     string `json:"fault"`
	// Copied: because of it all files over that protocol are copied. Else it only
	// takes more work to send them.
	Copied bool `json:"copied"`
}

func (f HTTPFault) String() string {
	if f.Copied {
		return "files over " + f.Protocol + " are copied: " + f.What
	}
	return "files over " + f.Protocol + " take more work: " + f.What
}

// TakeNewer is what to do if Go or Caddy has changed.
const TakeNewer = "build Caddy with a newer version of this module, since Go or Caddy has changed. " +
	"If there is none, please open an issue"

func (r *report) judgeHTTP() {
	for _, f := range r.HTTP {
		r.add("http", stateWarn, f.String(), TakeNewer)
	}
	if len(r.HTTP) == 0 {
		r.add("http", stateOK, "Go and Caddy in this build do what sendfile needs")
	}
}

package fileserver

import "sync/atomic"

// To send bodies by sendfile(2), this package relies on what net/http,
// golang.org/x/net/http2 and Caddy do but don't promise. [SelfTest] tries it at the
// start. Over HTTP/1.1 it may turn out only in service that it does not hold. From then
// on bodies are copied, in the whole process.

// A trust says whether bodies over a protocol may be sent.
type trust struct {
	protocol string
	reason   Reason // why bodies are copied if they may not
	lost     atomic.Bool
}

var (
	http1Trust = &trust{protocol: "HTTP/1.1", reason: ReasonPathUnknown}
	http2Trust = &trust{protocol: "HTTP/2", reason: ReasonStreamUnknown}
)

// distrust is called when something other than the placeholder of an announced file has
// come, or nothing, although no write has failed. So the client is not to blame.
func (s *Server) distrust() {
	if http1Trust.lost.CompareAndSwap(false, true) && s.Distrusted != nil {
		s.Distrusted()
	}
}

func distrustFaults(faults []Fault) {
	for _, f := range faults {
		for _, t := range []*trust{http1Trust, http2Trust} {
			if f.Copied && f.Protocol == t.protocol {
				t.lost.Store(true)
			}
		}
	}
}

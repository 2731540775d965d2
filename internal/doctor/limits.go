package doctor

import (
	"fmt"
	"strings"
)

// fewDescriptors is the limit below which file descriptors may run out. Caddy's systemd
// unit sets 1048576 (github.com/caddyserver/dist).
const fewDescriptors = 8192

func (r *report) judgeDescriptors() {
	switch n := r.FileDescriptors; {
	case n == 0:
	case n < fewDescriptors:
		todo := "raise the limit: LimitNOFILE=1048576 in a systemd unit, ulimit -n 1048576 as root in a shell"
		if r.Container != "" {
			todo = "raise the container's limit, for example by docker run --ulimit nofile=1048576"
		}
		r.add("files", stateWarn, fmt.Sprintf("at most %d file descriptors: a download takes 2", n), todo)
	default:
		r.add("files", stateOK, fmt.Sprintf("at most %d file descriptors", n))
	}
}

func (r *report) judgeNetwork() {
	if len(r.Interfaces) > 0 {
		r.add("network", stateNote, strings.Join(r.Interfaces, ", ")+": TLS offload is on, the network card may encrypt; this module has not been tested with that")
	} else {
		r.add("network", stateNote, "no interface has TLS offload on: the CPU encrypts")
	}
}

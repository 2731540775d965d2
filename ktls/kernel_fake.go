//go:build fakekernel && linux

package ktls

import (
	"fmt"
	"net"

	"github.com/caddy-ktls/caddy-ktls/internal/fakekernel"
)

// With the build tag fakekernel a kernel is faked: records are made in user
// space, and everything else works as with kernel TLS. It is for tests only.

func probeKernel() (Support, error) { return probeSuites(openKernel) }

func openKernel(tcp *net.TCPConn) kernel {
	return &fakeSocket{
		system: newSocket(tcp),
		fake: fakekernel.Kernel{Wire: tcp, Complain: func(format string, arguments ...any) {
			panic(fmt.Sprintf(format, arguments...))
		}},
	}
}

// A fakeSocket has the system tell what a plain TCP socket can tell.
type fakeSocket struct {
	system kernel
	fake   fakekernel.Kernel
}

func (s *fakeSocket) install(info []byte, overhead int) error { return s.fake.Install(info, overhead) }
func (s *fakeSocket) rekey(info []byte) error                 { return s.fake.Rekey(info) }
func (s *fakeSocket) records() uint64                         { return s.fake.Counts().Records }
func (s *fakeSocket) send(p []byte, more bool) (int, error)   { return s.fake.Send(p, more) }
func (s *fakeSocket) cork(on bool)                            { s.fake.Cork(on) }
func (s *fakeSocket) unsent() (int, error)                    { return s.system.unsent() }
func (s *fakeSocket) acked() (uint64, error)                  { return s.system.acked() }

func (s *fakeSocket) sendFile(f File, offset, n int64, _ waiter) (int64, error) {
	return s.fake.SendFile(f, offset, n)
}

func (s *fakeSocket) sendControl(typ recordType, body []byte, _ bool) error {
	return s.fake.SendControl(byte(typ), body)
}

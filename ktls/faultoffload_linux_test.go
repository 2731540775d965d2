package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A connection that the kernel refuses to take works in user space.
func TestKernelSetKeyFails(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	for _, step := range []struct {
		call   string
		errnos []unix.Errno
	}{
		{"TCP_ULP", []unix.Errno{unix.ENOENT, unix.ENOPROTOOPT, unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EPERM}},
		{"TCP_INFO", []unix.Errno{unix.ENOMEM, unix.EINVAL}},
		{"TLS_TX", []unix.Errno{unix.ENOENT, unix.ENOPROTOOPT, unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EPERM}},
	} {
		for i, errno := range step.errnos {
			// Each in one of the ways to get there.
			tt := []struct {
				version uint16
				mode    mode
			}{{tls.VersionTLS13, onDemand}, {tls.VersionTLS13, offloadAll}, {tls.VersionTLS12, onDemand}, {tls.VersionTLS12, offloadAll}}[i%4]
			t.Run(fmt.Sprintf("%s/%s/%s/%v", step.call, unix.ErrnoName(errno), tls.VersionName(tt.version), tt.mode), func(t *testing.T) {
				b := newBreakdown(step.call, errno)
				b.arm(0)
				s := brokenServer(t, tt.mode, b)
				before := txSockets(t)
				config := clientConfig()
				config.MaxVersion = tt.version
				conn, client, _ := s.connect(t, config)
				conn.Offload()
				transfer(t, conn, client, testutil.Body(70_000))
				wantState(t, conn, KernelRefused)
				transferFrom(t, conn, client, testutil.OpenFile(t, testutil.Body(70_001)), testutil.Body(70_001))
				transferBack(t, conn, client, testutil.Body(70_002))
				s.end(t, conn, client)
				wantGone(t, s, conn)
				b.wantDone(t)
				wantTxSockets(t, before, 0)
				s.wantDecidedBy(t, errno)
			})
		}
	}
	for _, step := range []string{"TCP_ULP", "TLS_TX"} {
		results.Fault(t, kernelFailures, "setsockopt of "+step+" fails (ENOENT, ENOPROTOOPT, EBUSY, ENOMEM, EINVAL, EPERM)", bySeam,
			"stays in user space, reason `kernel_refused`; bodies whole")
	}
	results.Fault(t, kernelFailures, "getsockopt of TCP_INFO fails before the offload (ENOMEM, EINVAL)", bySeam,
		"stays in user space, reason `kernel_refused`; bodies whole")
}

// A kernel that does not confirm the TLS layer has no key yet, so the connection works
// in user space. After one that does not confirm the key it ends, because it may be
// encrypted or not, and that kernel gets no other.
func TestKernelConfirmFails(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EPERM, unix.EINVAL, unix.ENOMEM} {
		for _, tt := range []struct {
			call  string
			state State
		}{{"get TCP_ULP", KernelRefused}, {"get TLS_TX", KernelUntrusted}} {
			t.Run(tt.call+"/"+unix.ErrnoName(errno), func(t *testing.T) {
				b := newBreakdown(tt.call, errno)
				b.arm(0)
				s := brokenServer(t, onDemand, b)
				conn, p, _ := s.connectPeer(t)
				conn.Offload()
				transfer(t, conn, p, testutil.Body(70_000))
				wantState(t, conn, tt.state)
				s.wantDecidedBy(t, errno)
				if tt.state == KernelRefused {
					transferFrom(t, conn, p, testutil.OpenFile(t, testutil.Body(70_001)), testutil.Body(70_001))
					s.end(t, conn, p)
				} else {
					if _, err := conn.Write(testutil.Body(70_000)); err == nil {
						t.Error("Write succeeded")
					}
					if n, err := p.Read(make([]byte, 1)); n > 0 || err == nil {
						t.Errorf("the client reads %d bytes, %v", n, err)
					}
					conn.Close()
				}
				b.wantDone(t)
				wantGone(t, s, conn)
			})
		}
	}
	results.Fault(t, kernelFailures, "getsockopt of TCP_ULP fails before the offload (EPERM, EINVAL, ENOMEM)", bySeam,
		"stays in user space, reason `kernel_refused`; bodies whole")
	results.Fault(t, kernelFailures, "getsockopt of TLS_TX fails after the offload (EPERM, EINVAL, ENOMEM)", bySeam,
		"connection closed, reason `kernel_untrusted`; no other is offered until the next reload")
}

// What a refusal means when the machine is looked at, and what is not the
// kernel's last word.
func TestProbeFails(t *testing.T) {
	for _, tt := range []struct {
		call         string
		errno        unix.Errno
		unsupported  bool
		cipherOnly   bool // one is missing, and the others work
		missingModul bool
	}{
		{call: "TCP_ULP", errno: unix.ENOENT, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.ENOPROTOOPT, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.EPERM, unsupported: true, missingModul: true},
		{call: "TCP_ULP", errno: unix.ENOMEM},
		{call: "TLS_TX", errno: unix.ENOENT, cipherOnly: true},
		{call: "TLS_TX", errno: unix.EINVAL, cipherOnly: true},
		{call: "TLS_TX", errno: unix.ENOMEM},
	} {
		t.Run(tt.call+"/"+unix.ErrnoName(tt.errno), func(t *testing.T) {
			if tt.call != "TCP_ULP" {
				testutil.RequireKernelTLS(t, Probe)
			}
			b := newBreakdown(tt.call, tt.errno)
			b.arm(0)
			support, err := probeSuites(func(tcp *net.TCPConn) kernel {
				k := newSocket(tcp).(*socket)
				k.fault = b.fault
				return k
			})
			b.wantDone(t)
			if tt.cipherOnly {
				if err != nil || len(support.Ciphers()) < 2 {
					t.Errorf("%v, %v; want that the other ciphers work", support, err)
				}
				if support.known&1 != 0 {
					t.Error("the cipher that the kernel has refused is listed")
				}
				return
			}
			testutil.WantError(t, err, tt.errno)
			if support.Any() || errors.Is(err, errors.ErrUnsupported) != tt.unsupported || (tt.unsupported && errors.Is(err, errSetULP)) != tt.missingModul {
				t.Errorf("%v, %v", support, err)
			}
		})
	}
}

// A kernel that can replace keys refuses it for one connection, as with a
// network card that encrypts, or for want of memory.
func TestKernelRekeyRefused(t *testing.T) {
	testutil.RequireKernelTLS(t, Probe)
	keepsNothing(t)
	for _, errno := range []unix.Errno{unix.EBUSY, unix.ENOMEM, unix.EINVAL, unix.EOPNOTSUPP} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			b := newBreakdown("TLS_TX", errno)
			b.arm(1)
			s := brokenServer(t, offloadAll, b)
			conn, p, _ := s.connectPeer(t)
			wantState(t, conn, Offloaded)
			if s.support.Rekey {
				b.wantDone(t)
			}
			transfer(t, conn, p, testutil.Body(70_000))
			p.keyUpdate(true)
			p.write(recordApplicationData, []byte("request"))
			if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
				t.Error("Read:", err)
			}
			transferFrom(t, conn, p, testutil.OpenFile(t, testutil.Body(70_001)), testutil.Body(70_001))
			if !conn.Retired() || p.updates > 0 {
				t.Errorf("retired: %v, %d KeyUpdates", conn.Retired(), p.updates)
			}
			s.end(t, conn, p)
			wantGone(t, s, conn)
		})
	}
	results.Fault(t, kernelFailures, "the second setsockopt of TLS_TX fails (EBUSY, ENOMEM, EINVAL, EOPNOTSUPP)", bySeam,
		"offloaded; a KeyUpdate of the client retires the connection after its response")
}

// If the key can't be replaced after all, no record may follow the KeyUpdate.
func TestKernelRekeyFails(t *testing.T) {
	if !testutil.RequireKernelTLS(t, Probe).Rekey {
		t.Skip("needs a kernel that can replace keys (6.14)")
	}
	keepsNothing(t)
	for _, call := range []string{"sendmsg", "TLS_TX"} {
		for _, errno := range []unix.Errno{unix.EBUSY, unix.ENOMEM, unix.EINVAL} {
			t.Run(call+"/"+unix.ErrnoName(errno), func(t *testing.T) {
				b := newBreakdown(call, errno)
				s := brokenServer(t, offloadAll, b)
				conn, p, _ := s.connectPeer(t)
				body := testutil.Body(70_000)
				transfer(t, conn, p, body)
				b.arm(0)
				p.keyUpdate(true)
				p.write(recordApplicationData, []byte("request"))
				if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
					t.Error("Read:", err)
				}
				sent, err := conn.ReadFrom(testutil.OpenFile(t, body))
				if sent != 0 {
					t.Errorf("%d bytes were sent", sent)
				}
				testutil.WantError(t, err, errno)
				_, err = conn.Write(body)
				testutil.WantError(t, err, errno)
				conn.Close()
				wantCut(t, p, nil)
				wantGone(t, s, conn)
				b.wantDone(t)
			})
		}
	}
	results.Fault(t, kernelFailures, "a KeyUpdate can't be sent, or its key not be set (EBUSY, ENOMEM, EINVAL)", bySeam,
		"connection closed before another byte; the client sees it")
}

// wantDecidedBy checks that one connection was decided on, for an error.
func (s *fakeServer) wantDecidedBy(t testing.TB, err error) {
	t.Helper()
	if len(s.decisions) != 1 || !errors.Is(s.decisions[0].err, err) {
		t.Errorf("decisions %v, want one with %v", s.decisions, err)
	}
}

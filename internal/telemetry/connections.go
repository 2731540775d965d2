package telemetry

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Connections counts and logs what becomes of the connections of one HTTP server.
// Most of its methods are callbacks of packages ktls and fileserver.
type Connections struct {
	count  *counters
	logger *zap.Logger
	behind []string // the listener wrappers that stand behind ktls
}

// NewConnections returns the Connections of an HTTP server, by its name. behind are the
// names of the listener wrappers that stand behind ktls.
func NewConnections(logger *zap.Logger, server string, behind []string) *Connections {
	return &Connections{count: countersOf(server), logger: logger, behind: behind}
}

// Unavailable logs that the kernel has no kernel TLS, or that it could not be tried. err
// is what [ktls.Probe] has returned.
func (c *Connections) Unavailable(err error) {
	message := "kernel TLS could not be tried; serving without it until a later try succeeds"
	if _, ok := errors.AsType[*ktls.UnsupportedError](err); ok {
		message = "kernel TLS is not available; serving without it: " + doctor.Cause(err) + ". " + lookCloser
	}
	reasonLog.warn(c.logger, message, ktls.KernelUnsupported.String(), zap.Error(detail(err)))
}

// detail returns what an error of [ktls.Probe] says besides its cause: the error of the
// system call, or nil if there was none.
func detail(err error) error {
	if unsupported, ok := errors.AsType[*ktls.UnsupportedError](err); ok {
		return unsupported.Err
	}
	return err
}

// lookCloser is what to do where kernel TLS is not available.
const lookCloser = "Run caddy ktls check"

// Accepted counts a connection that was accepted where the kernel has no kernel TLS.
func (c *Connections) Accepted() { c.count.decided(ktls.Decision{State: ktls.KernelUnsupported}) }

// Decided counts and logs the final state of a connection.
func (c *Connections) Decided(conn *ktls.Conn, d ktls.Decision) {
	c.count.decided(d)
	remote := zap.Stringer("remote", conn.RemoteAddr())
	switch d.State {
	case ktls.Offloaded, ktls.NotNeeded:
		if entry := c.logger.Check(zap.DebugLevel, "connection "+d.State.String()); entry != nil {
			entry.Write(remote)
		}
	case ktls.KernelUntrusted:
		reasonLog.warn(c.logger, "the kernel can't be trusted with connections: it took a key and did not do what it said; "+
			"serving without kernel TLS until the next reload. "+lookCloser, d.State.String(), remote, zap.Error(d.Err))
	default:
		reasonLog.info(c.logger, "connection can't be offloaded", d.State.String(), remote, zap.Error(d.Err))
	}
}

// NotTCP counts and logs a connection that is not plain TCP below TLS.
func (c *Connections) NotTCP(raw net.Conn) {
	c.count.decided(ktls.Decision{State: ktls.NotTCP})
	reasonLog.info(c.logger, "connection can't be offloaded: it is not plain TCP below TLS",
		ktls.NotTCP.String(), zap.String("type", fmt.Sprintf("%T", raw)))
}

// Sent counts bytes of bodies that went out by sendfile(2).
func (c *Connections) Sent(n int64) { c.count.sendfileBytes.Add(float64(n)) }

// KeyUpdated counts a key that was replaced in the kernel.
func (c *Connections) KeyUpdated(*ktls.Conn) { c.count.keyUpdates.Inc() }

// Retired counts and logs a connection whose key can't be replaced.
func (c *Connections) Retired(conn *ktls.Conn) {
	c.count.retired.Inc()
	reasonLog.info(c.logger, "connection ends when its responses are complete: its key can't be replaced in the kernel, which needs TLS 1.3 and Linux 6.14",
		"retired", zap.Stringer("remote", conn.RemoteAddr()))
}

// Closed notes that an offloaded connection is closed.
func (c *Connections) Closed(*ktls.Conn) { c.count.offloaded.Dec() }

// Lost counts and logs a connection whose client may not have received everything.
func (c *Connections) Lost(conn *ktls.Conn, err error) {
	c.count.lost.Inc()
	level := zap.WarnLevel
	if errors.Is(err, net.ErrClosed) {
		level = zap.DebugLevel // the client went away
	}
	if entry := c.logger.Check(level, "client did not receive everything that was sent"); entry != nil {
		entry.Write(zap.Stringer("remote", conn.RemoteAddr()), zap.Error(err))
	}
}

// Distrusted logs that files over HTTP/1.1 are copied from now on, and what to do about
// it. Over HTTP/2, nothing depends on what other wrappers hand on.
func (c *Connections) Distrusted() {
	todo := doctor.TakeNewer
	if behind := slices.DeleteFunc(slices.Clone(c.behind), func(name string) bool { return name == "ktls" }); len(behind) > 0 {
		todo = "leave out what stands behind ktls in listener_wrappers, because it may alter what is written: " +
			strings.Join(behind, ", ") + ". If that is not it, " + todo
	}
	c.logger.Error("a response has failed, and files over HTTP/1.1 are copied until Caddy restarts: "+
		"what is written for a file does not reach ktls as it is. To send them by the kernel again, "+todo,
		zap.String("protocol", "HTTP/1.1"), zap.Strings("behind", c.behind), zap.String("go", runtime.Version()))
}

var http3Logged sync.Once

// HTTP3 logs, once in the life of the process, that a server speaks HTTP/3 as well.
func (c *Connections) HTTP3() {
	http3Logged.Do(func() {
		c.logger.Info("HTTP/3 is on, as it is by default: browsers move to it, and kernel TLS can't do it. "+
			"Whether to turn it off, and how: "+Pages+"http3.md", zap.String("server", c.count.name))
	})
}

// Pages is where the documents are that messages name.
const Pages = "https://github.com/caddy-ktls/caddy-ktls/blob/main/docs/"

var selfTestLogged sync.Once

// SelfTested logs, once in the life of the process, what the self-test has found.
func (c *Connections) SelfTested(selfTest func() []doctor.HTTPFault) {
	selfTestLogged.Do(func() { c.logFaults(selfTest()) })
}

func (c *Connections) logFaults(faults []doctor.HTTPFault) {
	for _, f := range faults {
		c.logger.Warn(f.String()+". To send them by the kernel as before, "+doctor.TakeNewer,
			zap.String("protocol", f.Protocol), zap.String("fault", f.What), zap.String("go", runtime.Version()))
	}
}

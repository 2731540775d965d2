// Package caddyktls moves the TLS connections of Caddy's sites into the Linux
// kernel (kernel TLS), where that pays, and serves files over them by
// sendfile(2).
//
// The Caddyfile directive ktls sets up all of it. In JSON it takes two modules:
// the listener wrapper caddy.listeners.ktls on a server, and the handler
// http.handlers.ktls in front of the handlers that serve files.
package caddyktls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
	caddy.RegisterModule(Handler{})
}

// ListenerWrapper lets the TLS connections of an HTTP server be offloaded to
// the Linux kernel. It has to stand behind the `tls` wrapper, where a wrapper
// stands by default; whatever wraps the connections before TLS keeps them from
// being offloaded.
//
// Connections that can't be offloaded are served as without this module, and
// the reason is logged: at level info the first time, at debug afterwards.
//
// On its own it only makes connections ready: add the handler `ktls` to the
// routes that serve files.
type ListenerWrapper struct {
	// Which connections are offloaded. `large` (default): those that carry a
	// response which is worth it, when it comes; any other connection costs
	// what it costs without this module. `all`: every connection, with its
	// first write.
	Offload string `json:"offload,omitempty"`

	ctx    caddy.Context
	logger *zap.Logger
	server *caddyhttp.Server
	behind []string // the listener wrappers that stand behind this one
	count  *serverMetrics
	http   *fileserver.Server // made when the server starts
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.ktls",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

var offloads = map[string]ktls.Install{
	"":      ktls.OnDemand,
	"large": ktls.OnDemand,
	"all":   ktls.AtHandshake,
}

// Provision sets up the wrapper.
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	offload, ok := offloads[w.Offload]
	if !ok {
		return fmt.Errorf("ktls: offload must be large or all, not %q", w.Offload)
	}
	w.ctx = ctx
	w.logger = ctx.Logger()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("ktls: the listener wrapper works in HTTP servers only")
	}
	first, err := wrappedServers.add(server, offload)
	if err != nil {
		return err
	}
	w.server, w.count = server, metricsOf(server.Name()) // Cleanup needs it after an error too
	if names := wrapperNames(server); slices.Contains(names, "ktls") {
		w.behind = names[slices.Index(names, "ktls")+1:]
	}
	if first {
		if err := checkServer(ctx, server, w.Offload); err != nil {
			return err
		}
	}
	if _, err := ktls.Probe(); first && !errors.Is(err, errors.ErrUnsupported) {
		server.RegisterConnState(fileserver.ConnState)
		server.RegisterConnContext(fileserver.ConnContext)
		warnFaults.Do(func() { logFaults(w.logger, httpFaults()) })
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("ktls: registering metrics: %w", err)
	}
	return nil
}

// Cleanup forgets the server. Connections that are open live on.
func (w *ListenerWrapper) Cleanup() error {
	if w.server != nil {
		wrappedServers.remove(w.server)
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper. If the kernel has no kernel
// TLS it returns ln itself, so that nothing at all changes.
func (w *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	if len(w.server.TLSConnPolicies) == 0 {
		return ln // a site with addresses of both kinds: this server is for http://
	}
	if w.http == nil {
		_, err := ktls.Probe()
		if errors.Is(err, errors.ErrUnsupported) {
			reasonLog.write(w.logger, "kernel TLS is not available; serving without it",
				ktls.KernelUnsupported.String(), zap.Error(err))
			return ln
		}
		if err != nil {
			reasonLog.write(w.logger, "kernel TLS could not be tried; serving without it until a later try succeeds",
				ktls.KernelUnsupported.String(), zap.Error(err))
		}
		w.http = w.newServer()
		w.server.RegisterOnStop(w.waitForClosing)
	}
	return w.http.Listener(ln)
}

func (w *ListenerWrapper) newServer() *fileserver.Server {
	// What net/http would log, under the name that Caddy gives its log.
	stdlib := w.ctx.Logger(new(caddyhttp.App)).Named("stdlib")
	return &fileserver.Server{
		TLS: ktls.NewServer(w.server.TLSConnPolicies.TLSConfig(w.ctx), &ktls.Options{
			Install:          offloads[w.Offload],
			InterruptRetired: true,
			Decided:          w.decided,
			Lost:             w.lost,
			Closed:           func(*ktls.Conn) { w.count.offloaded.Dec() },
			KeyUpdated:       func(*ktls.Conn) { w.count.keyUpdates.Inc() },
			Retired:          w.retired,
			Drain:            &drain,
		}),
		Timeouts: fileserver.Timeouts{
			ReadHeader: time.Duration(w.server.ReadHeaderTimeout),
			Read:       time.Duration(w.server.ReadTimeout),
			Write:      time.Duration(w.server.WriteTimeout),
		},
		HandshakeFailed: func(message string) { stdlib.Debug(message) },
		NotTCP: func(raw net.Conn) {
			w.count.decided(ktls.Decision{State: ktls.NotTCP})
			reasonLog.write(w.logger, "connection can't be offloaded: it is not plain TCP below TLS",
				ktls.NotTCP.String(), zap.String("type", fmt.Sprintf("%T", raw)))
		},
		Distrusted: w.distrusted,
		Sent:       func(n int64) { w.count.sendfileBytes.Add(float64(n)) },
	}
}

// decided counts and logs a connection that is offloaded or not.
func (w *ListenerWrapper) decided(c *ktls.Conn, d ktls.Decision) {
	w.count.decided(d)
	remote := zap.Stringer("remote", c.RemoteAddr())
	switch d.State {
	case ktls.Offloaded, ktls.NotNeeded:
		if entry := w.logger.Check(zap.DebugLevel, "connection "+d.State.String()); entry != nil {
			entry.Write(remote)
		}
	case ktls.KernelUntrusted:
		reasonLog.warn(w.logger, "the kernel can't be trusted with connections: it took a key and did not do what it said; "+
			"serving without kernel TLS until the next reload. Run caddy ktls check", d.State.String(), remote, zap.Error(d.Err))
	default:
		reasonLog.write(w.logger, "connection can't be offloaded", d.State.String(), remote, zap.Error(d.Err))
	}
}

// retired counts and logs a connection whose key can't be replaced.
func (w *ListenerWrapper) retired(c *ktls.Conn) {
	w.count.retired.Inc()
	reasonLog.write(w.logger, "connection ends when its responses are complete: the kernel can't replace its key, which takes Linux 6.14",
		"retired", zap.Stringer("remote", c.RemoteAddr()))
}

// distrusted logs that the files of a protocol are copied from now on, and what to
// do.
func (w *ListenerWrapper) distrusted(protocol string) {
	todo := doctor.TakeNewer
	if behind := slices.DeleteFunc(slices.Clone(w.behind), func(name string) bool { return name == "ktls" }); len(behind) > 0 && protocol == "HTTP/1.1" {
		// Over HTTP/2 nothing depends on what they hand on.
		todo = "leave out what stands behind ktls in listener_wrappers, as it may alter what is written: " +
			strings.Join(behind, ", ") + ". If that is not it, " + todo
	}
	w.logger.Error("a response has failed, and files over "+protocol+" are copied until Caddy restarts: "+
		"what is written for a file does not reach ktls as it is. To send them by the kernel again, "+todo,
		zap.String("protocol", protocol), zap.Strings("behind", w.behind), zap.String("go", runtime.Version()))
}

// warnFaults has the self-test's faults logged once in the life of the process.
var warnFaults sync.Once

func logFaults(logger *zap.Logger, faults []doctor.HTTPFault) {
	for _, f := range faults {
		logger.Warn(f.String()+". To send them by the kernel as before, "+doctor.TakeNewer,
			zap.String("protocol", f.Protocol), zap.String("fault", f.What), zap.String("go", runtime.Version()))
	}
}

// httpFaults is the self-test of package fileserver, as package doctor takes it.
func httpFaults() (faults []doctor.HTTPFault) {
	for _, f := range fileserver.SelfTest() {
		faults = append(faults, doctor.HTTPFault(f))
	}
	return faults
}

// lost counts and logs a connection whose client may not have got everything.
func (w *ListenerWrapper) lost(c *ktls.Conn, err error) {
	w.count.lost.Inc()
	level := zap.WarnLevel
	if errors.Is(err, net.ErrClosed) {
		level = zap.DebugLevel // the client went away
	}
	if entry := w.logger.Check(level, "client did not take all that was sent"); entry != nil {
		entry.Write(zap.Stringer("remote", c.RemoteAddr()), zap.Error(err))
	}
}

// exitWait bounds how long a Caddy that exits waits for connections that are
// closed but have data left to send, if no grace period does.
const exitWait = 10 * time.Second

// waitForClosing keeps a process that exits alive until what it has sent is
// with the clients.
func (w *ListenerWrapper) waitForClosing(ctx context.Context) error {
	if !caddy.Exiting() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	if err := drain.Wait(ctx); err != nil {
		return fmt.Errorf("ktls: exiting while clients have yet to take what was sent to them: %w", err)
	}
	return nil
}

// Handler sends bodies that are files by sendfile(2) over connections that the
// kernel encrypts. It offloads the connection when the first such body comes.
// It does not serve files itself: any handler behind it that copies a file to
// the client, as `file_server` does, profits. It has to stand before the
// handlers that alter bodies, such as `encode` and `templates`, which it does
// in a Caddyfile.
//
// Its server needs the listener wrapper `ktls`.
//
// Placeholders, for access logs (`log_append`) and the like:
//
// Placeholder | Description
// ------------|-------------
// `{http.ktls.status}` | `offloaded`, or why the connection is not, or why the file was copied
// `{http.ktls.sendfile_bytes}` | Bytes of the body that went out by sendfile(2)
//
// They tell what is known at the time: before the body is sent, the connection
// may not have been offloaded yet.
type Handler struct {
	// The least length of a body, in bytes, that is worth it. Shorter ones
	// are sent as without this module. Default: 131072.
	MinSize int64 `json:"min_size,omitempty"`

	// The value that `offload` of the listener wrapper must have: a
	// configuration in which it has another one is refused. It changes nothing
	// else. Default: any value will do.
	Offload string `json:"offload,omitempty"`

	logger  *zap.Logger
	count   *serverMetrics
	options fileserver.Options
	inert   bool // the kernel has no kernel TLS, as the listener wrapper logs
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.ktls",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	if h.MinSize < 0 {
		return fmt.Errorf("ktls: min_size must not be negative: %d", h.MinSize)
	}
	if _, ok := offloads[h.Offload]; !ok {
		return fmt.Errorf("ktls: offload must be large or all, not %q", h.Offload)
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errNoWrapper(nil)
	}
	if err := checkHandler(ctx, server, h.Offload); err != nil {
		return err
	}
	_, err := ktls.Probe()
	h.inert = errors.Is(err, errors.ErrUnsupported)
	h.logger, h.count = ctx.Logger(), metricsOf(server.Name())
	h.options = fileserver.Options{
		MinSize: cmp.Or(h.MinSize, fileserver.DefaultMinSize),
		Sending: func(_ *http.Request, reason fileserver.Reason) { h.sending(reason) },
		Failed: func(r *http.Request, err error) {
			h.count.failed.Inc()
			h.logger.Debug("sending a file failed",
				zap.String("remote", r.RemoteAddr), zap.String("uri", r.RequestURI), zap.Error(err))
		},
	}
	return nil
}

// sending counts and logs a response that is a file.
func (h *Handler) sending(reason fileserver.Reason) {
	h.count.sending(reason)
	if reason != fileserver.ReasonNone {
		reasonLog.write(h.logger, "file is copied instead of sent by the kernel", string(reason))
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.TLS == nil {
		return next.ServeHTTP(w, r)
	}
	var response *fileserver.Response
	if !h.inert {
		if w, response = fileserver.Insert(w, r, &h.options); response == nil {
			return next.ServeHTTP(w, r) // not the first handler of this kind
		}
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(func(key string) (any, bool) { return placeholder(response, key) })
	}
	if response != nil {
		defer h.done(response, r) // a handler may panic
	}
	err := next.ServeHTTP(w, r)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge && response != nil {
		response.RefuseBody() // Caddy answers past our writer
	}
	return err
}

// done counts and logs a response that has been handled.
func (h *Handler) done(response *fileserver.Response, r *http.Request) {
	response.Done()
	h.count.done(response)
	if entry := h.logger.Check(zap.DebugLevel, "response"); entry != nil {
		entry.Write(zap.String("remote", r.RemoteAddr), zap.String("uri", r.RequestURI),
			zap.String("status", status(response)), zap.Int64("sendfile_bytes", response.Sent()), zap.Int64("copied_bytes", response.Copied()))
	}
}

// placeholder returns the value of one of the module's placeholders.
func placeholder(response *fileserver.Response, key string) (value any, known bool) {
	switch key {
	case "http.ktls.status":
		return status(response), true
	case "http.ktls.sendfile_bytes":
		if response == nil {
			return int64(0), true
		}
		return response.Sent(), true
	}
	return nil, false
}

// status says whether a response's connection is offloaded, or why not; and if it
// is but the body, a file, is copied, why that.
func status(response *fileserver.Response) string {
	if response == nil {
		return ktls.KernelUnsupported.String()
	}
	if response.Eligible() && response.Reason() != fileserver.ReasonNone {
		return string(response.Reason())
	}
	offload, ok := response.Offload()
	if !ok {
		return string(fileserver.ReasonNotOffloadable)
	}
	return offload.String()
}

// Interface guards
var (
	_ caddy.Provisioner           = (*ListenerWrapper)(nil)
	_ caddy.CleanerUpper          = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper       = (*ListenerWrapper)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

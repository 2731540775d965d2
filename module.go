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
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
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
	// When connections are offloaded: `on_demand` (default), when a response
	// comes that is worth it, so that a connection which never has one costs
	// what it costs without this module; or `handshake`, every connection
	// right after its handshake.
	Install string `json:"install,omitempty"`

	ctx    caddy.Context
	logger *zap.Logger
	server *caddyhttp.Server
	http   *fileserver.Server // made when the server starts
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.ktls",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

var installs = map[string]ktls.Install{
	"":          ktls.OnDemand,
	"on_demand": ktls.OnDemand,
	"handshake": ktls.AtHandshake,
}

// Provision sets up the wrapper.
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	install, ok := installs[w.Install]
	if !ok {
		return fmt.Errorf("ktls: install must be on_demand or handshake, not %q", w.Install)
	}
	w.ctx = ctx
	w.logger = ctx.Logger()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("ktls: the listener wrapper works in HTTP servers only")
	}
	first, err := wrappedServers.add(server, install)
	if err != nil {
		return err
	}
	w.server = server
	if _, err := ktls.Probe(); first && err == nil {
		server.RegisterConnState(fileserver.ConnState)
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
		if _, err := ktls.Probe(); err != nil {
			reasonLog.write(w.logger, "kernel TLS is not available; serving without it",
				ktls.KernelUnsupported.String(), zap.Error(err))
			return ln
		}
		w.http = w.newServer()
		w.server.RegisterOnStop(w.waitForClosing)
	}
	return w.http.Listener(ln)
}

func (w *ListenerWrapper) newServer() *fileserver.Server {
	// What net/http would log, under the name that Caddy gives its log.
	stdlib := w.ctx.Logger(new(caddyhttp.App)).Named("stdlib")
	logger := w.logger
	return &fileserver.Server{
		TLS: ktls.NewServer(w.server.TLSConnPolicies.TLSConfig(w.ctx), &ktls.Options{
			Install:          installs[w.Install],
			InterruptRetired: true,
			Decided:          func(c *ktls.Conn, reason ktls.Reason, err error) { decided(logger, c, reason, err) },
			Lost:             func(c *ktls.Conn, err error) { lost(logger, c, err) },
			Drain:            &drain,
		}),
		Timeouts: fileserver.Timeouts{
			ReadHeader: time.Duration(w.server.ReadHeaderTimeout),
			Read:       time.Duration(w.server.ReadTimeout),
			Write:      time.Duration(w.server.WriteTimeout),
		},
		HandshakeFailed: func(message string) { stdlib.Debug(message) },
		NotTCP: func(raw net.Conn) {
			metrics.connections.WithLabelValues(ktls.NotTCP.String()).Inc()
			reasonLog.write(logger, "connection can't be offloaded: it is not plain TCP below TLS",
				ktls.NotTCP.String(), zap.String("type", fmt.Sprintf("%T", raw)))
		},
		Sent: func(n int64) { metrics.sendfileBytes.Add(float64(n)) },
	}
}

// decided counts and logs a connection that is offloaded or not.
func decided(logger *zap.Logger, c *ktls.Conn, reason ktls.Reason, err error) {
	metrics.connections.WithLabelValues(reason.String()).Inc()
	switch reason {
	case ktls.Offloaded, ktls.NotNeeded:
		if entry := logger.Check(zap.DebugLevel, "connection "+reason.String()); entry != nil {
			entry.Write(zap.Stringer("remote", c.RemoteAddr()))
		}
	default:
		reasonLog.write(logger, "connection can't be offloaded", reason.String(),
			zap.Stringer("remote", c.RemoteAddr()), zap.Error(err))
	}
}

// lost counts and logs a connection whose client may not have got everything.
func lost(logger *zap.Logger, c *ktls.Conn, err error) {
	metrics.lost.Inc()
	level := zap.WarnLevel
	if errors.Is(err, net.ErrClosed) {
		level = zap.DebugLevel // the client went away
	}
	if entry := logger.Check(level, "client did not take all that was sent"); entry != nil {
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
type Handler struct {
	// The least length of a body, in bytes, that is worth it. Shorter ones
	// are sent as without this module. Default: 65536.
	MinSize int64 `json:"min_size,omitempty"`

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
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !wrappedServers.has(server) {
		return errNoWrapper(server)
	}
	_, err := ktls.Probe()
	h.inert = err != nil
	logger := ctx.Logger()
	h.options = fileserver.Options{
		MinSize: cmp.Or(h.MinSize, fileserver.DefaultMinSize),
		Sending: func(_ *http.Request, reason fileserver.Reason) { sending(logger, reason) },
		Failed: func(r *http.Request, err error) {
			metrics.failed.Inc()
			logger.Debug("sending a file failed",
				zap.String("remote", r.RemoteAddr), zap.String("uri", r.RequestURI), zap.Error(err))
		},
	}
	return nil
}

// errNoWrapper explains a handler whose server has no listener wrapper.
func errNoWrapper(server *caddyhttp.Server) error {
	var where string
	if server != nil {
		where = " of the server at " + strings.Join(server.Listen, ", ")
	}
	return fmt.Errorf("ktls: the listener wrapper ktls is missing from the configuration%s. Either "+
		"a global servers block sets the listener wrappers of that address, or matches it without naming any: "+
		"put listener_wrappers { ktls } into it. Or ktls stands inside handle, route, handle_errors or a "+
		"named route: put it at the top of the site block, with a matcher if need be", where)
}

// sending counts and logs a response that is a file.
func sending(logger *zap.Logger, reason fileserver.Reason) {
	word := string(reason)
	if reason == fileserver.ReasonNone {
		metrics.responses.WithLabelValues("sendfile").Inc()
		return
	}
	metrics.responses.WithLabelValues(word).Inc()
	reasonLog.write(logger, "file is copied instead of sent by the kernel", word)
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.inert && r.TLS != nil {
		w = fileserver.Insert(w, r, &h.options)
	}
	return next.ServeHTTP(w, r)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*ListenerWrapper)(nil)
	_ caddy.CleanerUpper          = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper       = (*ListenerWrapper)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

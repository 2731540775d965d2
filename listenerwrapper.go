package caddyktls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// ListenerWrapper offloads TLS connections of an HTTP server to the Linux kernel (kernel
// TLS). The kernel encrypts what a connection sends once it is offloaded.
//
// A connection that can't be offloaded is served as without this module. The log has the
// reason: at level info the first time, at debug afterwards. Where the kernel has no
// kernel TLS, a warning says so, and connections are counted; nothing else changes.
//
// The wrapper must stand behind the `tls` wrapper. By default every wrapper does. A
// wrapper in front of `tls`, such as `proxy_protocol`, keeps connections from being
// offloaded, unless it hands them on unchanged.
//
// The kernel sends files only in routes with the handler `ktls`. Without that handler no
// connection is offloaded, unless `offload` is `all`.
type ListenerWrapper struct {
	// Which connections are offloaded, `large` or `all`. Default: `large`.
	//
	// `large`: a connection is offloaded when it has to carry a body that is worth
	// it, which `min_size` of the handler decides. Any other connection costs little
	// more than without this module.
	//
	// `all`: every connection is offloaded with its first write, whatever it
	// carries.
	Offload string `json:"offload,omitempty"`

	ctx         caddy.Context
	server      *caddyhttp.Server
	first       bool // of the server's wrappers: the only one that does anything
	connections *telemetry.Connections
	probed      error              // of the probe, when this configuration was loaded
	http        *fileserver.Server // nil until the server starts
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.ktls",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

// offloads has the values of the option offload. A value says whether all connections are
// offloaded.
var offloads = map[string]bool{"": false, "large": false, "all": true}

// Provision sets up the wrapper. It fails for a configuration that can't work, and warns
// of a configuration that may not do what is expected.
func (w *ListenerWrapper) Provision(ctx caddy.Context) error {
	all, ok := offloads[w.Offload]
	if !ok {
		return fmt.Errorf("ktls: offload must be large or all, not %q", w.Offload)
	}
	w.ctx = ctx
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("ktls: the listener wrapper works in HTTP servers only")
	}
	var err error
	if w.first, err = wrappedServers.add(server, all); err != nil {
		return err
	}
	w.server = server // Cleanup needs it after an error too
	if !w.first {
		return nil
	}
	w.connections = telemetry.NewConnections(ctx.Logger(), server.Name(), wrappersBehind(server))
	if err := checkServer(ctx, server, w.Offload); err != nil {
		return err
	}
	// The operator may have loaded the kernel's module since the last configuration.
	if _, w.probed = ktls.ProbeAgain(); !errors.Is(w.probed, errors.ErrUnsupported) {
		server.RegisterConnState(fileserver.ConnState)
		server.RegisterConnContext(fileserver.ConnContext)
		w.connections.SelfTested(httpFaults)
		if w.probed == nil && http3ByDefault(server) {
			w.connections.HTTP3()
		}
	}
	if err := telemetry.Register(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("ktls: registering metrics: %w", err)
	}
	return nil
}

// Cleanup forgets the server. Open connections stay as they are.
func (w *ListenerWrapper) Cleanup() error {
	if w.server != nil {
		wrappedServers.remove(w.server)
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper. If the kernel has no kernel TLS,
// connections are counted, and nothing else changes.
func (w *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	if !w.first {
		return ln // every site with the directive adds a wrapper; a second one would count again
	}
	if len(w.server.TLSConnPolicies) == 0 {
		return ln // the site also has http:// addresses, and this is their server
	}
	if w.http == nil {
		if w.probed != nil {
			w.connections.Unavailable(w.probed)
		}
		if errors.Is(w.probed, errors.ErrUnsupported) {
			return countingListener{ln, w.connections.Accepted}
		}
		w.http = w.newServer()
		w.server.RegisterOnStop(w.waitForClosing)
	}
	return w.http.Listener(ln)
}

func (w *ListenerWrapper) newServer() *fileserver.Server {
	// This logger gets what net/http would log, so it has the name that Caddy gives that
	// log.
	stdlib := w.ctx.Logger(new(caddyhttp.App)).Named("stdlib")
	return &fileserver.Server{
		TLS: ktls.NewServer(w.server.TLSConnPolicies.TLSConfig(w.ctx), &ktls.Options{
			OffloadAll:       offloads[w.Offload],
			InterruptRetired: true,
			Decided:          w.connections.Decided,
			Lost:             w.connections.Lost,
			Closed:           w.connections.Closed,
			KeyUpdated:       w.connections.KeyUpdated,
			Retired:          w.connections.Retired,
			Drain:            &drain,
		}),
		Timeouts: fileserver.Timeouts{
			ReadHeader: time.Duration(w.server.ReadHeaderTimeout),
			Read:       time.Duration(w.server.ReadTimeout),
			Write:      time.Duration(w.server.WriteTimeout),
		},
		HandshakeFailed: func(message string) { stdlib.Debug(message) },
		NotTCP:          w.connections.NotTCP,
		Distrusted:      w.connections.Distrusted,
		Sent:            w.connections.Sent,
	}
}

// A countingListener tells of each connection that it accepts.
type countingListener struct {
	net.Listener
	accepted func()
}

// Accept implements net.Listener.
func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted()
	}
	return conn, err
}

// drain counts the connections that are closed but still have data to send. It belongs to
// the process, because these connections outlive their configuration.
var drain ktls.Drain

// exitWait limits how long an exiting Caddy waits for connections that are closed but
// still have data to send. A shorter grace period limits it too.
const exitWait = 10 * time.Second

// waitForClosing keeps an exiting process alive until the clients have what it sent.
func (w *ListenerWrapper) waitForClosing(ctx context.Context) error {
	if !caddy.Exiting() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	if err := drain.Wait(ctx); err != nil {
		return fmt.Errorf("ktls: exiting before clients have received everything that was sent to them: %w", err)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.CleanerUpper    = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
)

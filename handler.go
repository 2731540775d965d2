package caddyktls

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Handler sends files by sendfile(2) over connections that the kernel encrypts. It has a
// connection offloaded when the first body comes that is worth it.
//
// It serves no files itself. It works for every handler behind it that copies a file to
// the client, as `file_server` does. Over HTTP/2 it also sends other large bodies of
// known length, such as those of `reverse_proxy`. They are copied, but that costs less
// than without this module.
//
// The handler must stand in front of handlers that alter bodies, such as `encode` and
// `templates`. The Caddyfile directive puts it there.
//
// Its server needs the listener wrapper `ktls`. A configuration without it is refused,
// unless the server has no TLS.
//
// Placeholders, for access logs (`log_append`) and the like:
//
// Placeholder | Description
// ------------|-------------
// `{http.ktls.status}` | `offloaded`, or why the connection is not, or why the file was copied
// `{http.ktls.sendfile_bytes}` | Bytes of the body that went out by sendfile(2)
//
// They show what is known when they are evaluated. Before the body is sent, the
// connection may not be offloaded yet.
type Handler struct {
	// The minimum length, in bytes, of a body that is sent by the kernel and has its
	// connection offloaded. A shorter body is sent as without this module. Must not be
	// negative. Default: 131072, also for 0.
	MinSize int64 `json:"min_size,omitempty"`

	// The value that `offload` of the listener wrapper must have, `large` or `all`. A
	// configuration in which it has another value is refused. That is the only effect.
	// The Caddyfile directive sets it, because Caddy may drop the listener wrapper of a
	// site. Default: the listener wrapper may have any value.
	Offload string `json:"offload,omitempty"`

	responses *telemetry.Responses
	options   fileserver.Options
	inert     bool // the kernel has no kernel TLS, as the listener wrapper logs
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
		return errNoWrapper(ctx, nil)
	}
	if err := checkHandler(ctx, server, h.Offload); err != nil {
		return err
	}
	_, err := ktls.Probe()
	h.inert = errors.Is(err, errors.ErrUnsupported)
	h.responses = telemetry.NewResponses(ctx.Logger(), server.Name())
	h.options = fileserver.Options{
		MinSize: cmp.Or(h.MinSize, fileserver.DefaultMinSize),
		Sending: h.responses.Sending,
		Failed:  h.responses.Failed,
	}
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.TLS == nil {
		return next.ServeHTTP(w, r)
	}
	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	var response *fileserver.Response
	if h.inert {
		if repl != nil {
			if _, known := repl.Get("http.ktls.status"); known {
				return next.ServeHTTP(w, r) // another handler of this kind came first
			}
		}
	} else {
		if w, response = fileserver.Wrap(w, r, &h.options); response == nil {
			return next.ServeHTTP(w, r) // another handler of this kind came first
		}
	}
	if repl != nil {
		repl.Map(func(key string) (any, bool) { return telemetry.Placeholder(response, key) })
	}
	defer func() { // a handler may panic
		if response == nil {
			h.responses.Unsupported()
			return
		}
		response.Done()
		h.responses.Done(r, response)
	}()
	err := next.ServeHTTP(w, r)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge && response != nil {
		response.RefuseBody() // Caddy answers past our writer
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

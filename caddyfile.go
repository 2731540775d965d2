package caddyktls

import (
	"fmt"
	"math"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/dustin/go-humanize"
)

// parseDirective parses the directive, which sets up the handler and the listener
// wrapper. Syntax:
//
//	ktls [<matcher>] {
//	    min_size <size>
//	    offload  large|all
//	}
//
// Without a matcher it applies to all requests of the site. min_size takes units, such
// as 64KiB or 1MB. The defaults are those of [Handler] and [ListenerWrapper].
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next() // consume the directive's name
	var handler Handler
	var wrapper ListenerWrapper
	if err := parseBlock(h.Dispenser, &handler, &wrapper); err != nil {
		return nil, err
	}
	return append(h.NewRoute(matcher, &handler), httpcaddyfile.ConfigValue{
		Class: "listener_wrapper",
		Value: &wrapper,
	}), nil
}

// UnmarshalCaddyfile sets up the wrapper from its entry in the global option
// listener_wrappers. Syntax:
//
//	ktls {
//	    offload large|all
//	}
func (w *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the wrapper's name
	return parseBlock(d, nil, w)
}

// parseBlock parses the options of the wrapper, and those of the handler unless it is
// nil.
func parseBlock(d *caddyfile.Dispenser, handler *Handler, wrapper *ListenerWrapper) error {
	if d.NextArg() {
		return d.Errf("ktls takes no %q: the name by itself turns kernel TLS on, and where it is left out kernel TLS is off", d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("option %s is given twice", option)
		}
		seen[option] = true
		var err error
		switch {
		case option == "offload":
			err = parseOffload(d, handler, wrapper)
		case option == "min_size" && handler != nil:
			err = parseMinSize(d, handler)
		default:
			err = d.Errf("unknown option %s", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseOffload(d *caddyfile.Dispenser, handler *Handler, wrapper *ListenerWrapper) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	if _, ok := offloads[value]; !ok || value == "" {
		return d.Errf("offload must be large or all, not %q", value)
	}
	wrapper.Offload = value
	if handler != nil {
		handler.Offload = value // Caddy may drop the wrapper
	}
	return nil
}

func parseMinSize(d *caddyfile.Dispenser, handler *Handler) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	size, err := humanize.ParseBytes(value)
	if err != nil || size == 0 || size > math.MaxInt64 {
		return d.Errf("min_size must be a size such as 64KiB or 1MB, not %q", value)
	}
	handler.MinSize = int64(size)
	return nil
}

// GoString returns what Caddy prints for the wrapper when it refuses the directive inside
// `route`. Only routes may stand there.
func (*ListenerWrapper) GoString() string {
	return "a listener wrapper; put ktls at the top of the site block, with a matcher if needed"
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
	_ fmt.GoStringer        = (*ListenerWrapper)(nil)
)

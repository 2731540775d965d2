package caddyktls

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Mistakes in the configuration are found when it is provisioned, so `caddy validate`
// finds them too. What can't work on a server with TLS is an error. What may be intended
// is a warning.
//
// The checks rely on the order in which Caddy provisions. By then automatic HTTPS has
// added its TLS policies, and the matchers of the routes are there. A server's listener
// wrappers come first, while the JSON of all of them and of the server's handlers is
// still there. The handlers come next.

// checkServer looks for mistakes on a server that has the listener wrapper. It
// is called once per server.
func checkServer(ctx caddy.Context, server *caddyhttp.Server, offload string) error {
	logger := ctx.Logger().With(zap.Strings("listen", server.Listen))
	wrappers := wrapperNames(server)
	ktlsAt, tlsAt := slices.Index(wrappers, "ktls"), slices.Index(wrappers, "tls")
	if 0 <= ktlsAt && ktlsAt < tlsAt {
		return fmt.Errorf("ktls: the listener wrapper ktls stands before tls at %s, where it sees no TLS: "+
			"put it behind tls, or leave tls out if nothing else has to stand before it", strings.Join(server.Listen, ", "))
	}
	if len(server.TLSConnPolicies) == 0 {
		warnPlain(ctx, server)
		return nil
	}
	if onlyHTTP3(server) {
		return errOnlyHTTP3(server)
	}
	for _, name := range wrappers[:max(ktlsAt, 0)] {
		if name != "tls" {
			logger.Warn("the listener wrapper "+name+" stands before ktls: unless it hands on connections as they are, "+
				"none can be offloaded. Do without it where you want kernel TLS", zap.String("wrapper", name))
		}
	}
	if errs := server.Errors; errs != nil && slices.ContainsFunc(errs.Routes, hasHandler) {
		logger.Warn("ktls has no effect in handle_errors: what is served there is copied. Leave it out there")
	}
	if protocols(server)["h3"] {
		wrapper := "ktls"
		if offloads[offload] != offloads[""] {
			wrapper += " { offload " + offload + " }"
		}
		logger.Warn("HTTP/3 is on, and browsers move to it, but kernel TLS can't do it. To turn it off, put both " +
			"protocols h1 h2 and listener_wrappers { " + wrapper + " } into the global servers block of this address. " +
			"You may not want that: HTTP/3 is better on networks that lose packets, such as mobile ones")
	}
	return nil
}

// checkHandler looks for mistakes on the server of a handler.
func checkHandler(ctx caddy.Context, server *caddyhttp.Server, offload string) error {
	got, wrapped := wrappedServers.offload(server)
	switch {
	case len(server.TLSConnPolicies) == 0:
		if !wrapped { // otherwise checkServer has warned
			warnPlain(ctx, server)
		}
	case onlyHTTP3(server):
		return errOnlyHTTP3(server)
	case !wrapped:
		return errNoWrapper(server)
	case offload != "" && offloads[offload] != got:
		return fmt.Errorf("ktls: offload %s of a site at %s has no effect. Either a global servers block sets the "+
			"listener wrappers of that address: put offload %[1]s into its listener_wrappers { ktls }. Or ktls stands "+
			"inside handle, handle_errors or a named route: give offload at the top of the site block",
			offload, strings.Join(server.Listen, ", "))
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
		"named route: put it at the top of the site block, with a matcher if needed", where)
}

func errOnlyHTTP3(server *caddyhttp.Server) error {
	return fmt.Errorf("ktls: the server at %s speaks HTTP/3 only, which kernel TLS can't do: "+
		"add h1 and h2 to its protocols, or leave ktls out", strings.Join(server.Listen, ", "))
}

// warnPlain warns of sites that have ktls on a server without TLS and are on no server
// with TLS. Sites with addresses of both kinds are normal.
func warnPlain(ctx caddy.Context, server *caddyhttp.Server) {
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	secure := make(map[string]bool)
	for _, s := range app.(*caddyhttp.App).Servers {
		if len(s.TLSConnPolicies) > 0 {
			for _, route := range s.Routes {
				for _, host := range hosts(route) {
					secure[host] = true
				}
			}
		}
	}
	var plain []string
	for _, route := range server.Routes {
		if hasHandler(route) {
			plain = append(plain, hosts(route)...)
		}
	}
	plain = slices.DeleteFunc(plain, func(host string) bool { return secure[host] || secure["*"] })
	if len(plain) > 0 {
		slices.Sort(plain)
		ctx.Logger().Warn("ktls has no effect on http://: give the site an https:// address, or leave ktls out",
			zap.Strings("listen", server.Listen), zap.Strings("hosts", slices.Compact(plain)))
	}
}

// hosts returns the hosts that a route of a server is for, or "*" for all hosts.
func hosts(route caddyhttp.Route) (hosts []string) {
	for _, set := range route.MatcherSets {
		for _, matcher := range set {
			if host, ok := matcher.(*caddyhttp.MatchHost); ok {
				hosts = append(hosts, *host...)
			}
		}
	}
	if hosts == nil {
		return []string{"*"}
	}
	return hosts
}

// hasHandler reports whether the handler ktls is anywhere in a route that has not been
// provisioned yet.
func hasHandler(route caddyhttp.Route) bool {
	var find func(v any) bool
	find = func(v any) bool {
		switch v := v.(type) {
		case []any:
			return slices.ContainsFunc(v, find)
		case map[string]any:
			for _, member := range v {
				if find(member) {
					return true
				}
			}
			return v["handler"] == "ktls"
		}
		return false
	}
	return slices.ContainsFunc(route.HandlersRaw, func(raw json.RawMessage) bool {
		var handler any
		return json.Unmarshal(raw, &handler) == nil && find(handler)
	})
}

// wrapperNames returns the names of a server's listener wrappers, in order. It works
// while the wrappers are being provisioned.
func wrapperNames(server *caddyhttp.Server) []string {
	var names []string
	for _, raw := range server.ListenerWrappersRaw {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		_ = json.Unmarshal(raw, &module) // Caddy reports errors
		names = append(names, module.Wrapper)
	}
	return names
}

// wrappersBehind returns the names of the listener wrappers that stand behind ktls.
func wrappersBehind(server *caddyhttp.Server) []string {
	names := wrapperNames(server)
	if i := slices.Index(names, "ktls"); i >= 0 {
		return names[i+1:]
	}
	return nil
}

// protocols returns the protocols that a server with TLS speaks at any of its
// addresses.
func protocols(server *caddyhttp.Server) map[string]bool {
	all := make(map[string]bool)
	for i, address := range server.Listen {
		names := server.Protocols
		if server.ListenProtocols != nil && server.ListenProtocols[i] != nil {
			names = server.ListenProtocols[i]
		}
		parsed, err := caddy.ParseNetworkAddress(address)
		for _, name := range names {
			if name == "h3" && err == nil && parsed.IsUnixNetwork() {
				continue // Caddy has no HTTP/3 there
			}
			all[name] = true
		}
	}
	return all
}

// onlyHTTP3 reports whether a server speaks neither HTTP/1.1 nor HTTP/2, so that it has
// no TCP listener.
func onlyHTTP3(server *caddyhttp.Server) bool {
	names := protocols(server)
	return !names["h1"] && !names["h2"] && !names["h2c"]
}

package caddyktls

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
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
	if onlyUnixSockets(server) {
		logger.Warn("ktls has no effect on a Unix socket: kernel TLS needs TCP. Leave it out, or bind an address")
	}
	checkPlaces(logger, server, offload)
	return nil
}

// checkPlaces looks for handlers ktls that have no effect where they stand. It names the
// site, and the place in the configuration as the admin endpoint takes it.
func checkPlaces(logger *zap.Logger, server *caddyhttp.Server, offload string) {
	all := sites(server)
	for _, s := range all {
		hosts := zap.Strings("hosts", s.hosts)
		for i, p := range s.ktls {
			at := zap.String("place", "apps/http/servers/"+server.Name()+"/"+p.path)
			if slices.Contains(p.before, "ktls") {
				logger.Warn("a second ktls has no effect: the first one that matches decides. Leave it out here, or give the first one a matcher", hosts, at)
				continue
			}
			if j := slices.IndexFunc(p.before, func(name string) bool { return slices.Contains(altering, name) }); j >= 0 {
				logger.Warn("ktls stands behind "+p.before[j]+", where it comes too late: put it in front", hosts, at, zap.String("handler", p.before[j]))
			}
			if i == 0 && !slices.ContainsFunc(all, func(other site) bool { return s.shares(other) && other.mayHaveFiles() }) {
				logger.Info("ktls may have nothing to do: no handler of the site sends files", hosts, at)
			}
		}
	}
	if !offloads[offload] && !slices.ContainsFunc(server.Routes, hasHandler) && !namedHandler(server) {
		logger.Warn("the listener wrapper ktls has no effect: no site at this address has the directive ktls, " +
			"which decides about the offload. Add it to the sites, or give the wrapper offload all")
	}
}

var (
	// altering are the handlers that ktls must stand in front of: they answer, or alter
	// what others answer.
	altering = []string{"file_server", "encode", "templates"}

	// fileless are the handlers that never send a file, nor hand on to what is not
	// known.
	fileless = []string{
		"acme_server", "authentication", "encode", "error", "headers", "ktls", "log_append", "map", "metrics",
		"request_body", "rewrite", "static_response", "subroute", "templates", "tracing", "vars",
	}
)

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
		return errNoWrapper(ctx, server)
	case offload != "" && offloads[offload] != got:
		if nested(ctx, server) {
			return fmt.Errorf("ktls: offload %s%s has no effect, because ktls stands inside handle, route, "+
				"handle_response, handle_errors or a named route: give offload at the top of the site block. See %s",
				offload, whose(server), mistakesPage)
		}
		return fmt.Errorf("ktls: offload %s%s has no effect, because a global servers block sets the listener wrappers "+
			"of that address. Change them to this, and give all sites there the same offload:%s\nSee %s", offload, whose(server), wrapperBlock(offload), mistakesPage)
	}
	return nil
}

// mistakesPage is where the documents say more about mistakes.
const mistakesPage = telemetry.Pages + "mistakes.md"

// errNoWrapper explains a handler whose server has no listener wrapper. server may be
// nil.
func errNoWrapper(ctx caddy.Context, server *caddyhttp.Server) error {
	const missing = "ktls: the listener wrapper ktls is missing from the configuration"
	if server == nil {
		return errors.New(missing + ", and there is no HTTP server around this handler. See " + mistakesPage)
	}
	if nested(ctx, server) {
		return fmt.Errorf("%s%s, because ktls stands inside handle, route, handle_response, handle_errors or a named route: "+
			"put it at the top of the site block, with a matcher if needed. In JSON give the server the listener wrapper ktls. See %s", missing, whose(server), mistakesPage)
	}
	return fmt.Errorf("%s%s, because a global servers block sets the listener wrappers of that address, "+
		"or matches it without naming any. Put this into it:%s\nIn JSON give the server the listener wrapper ktls. See %s",
		missing, whose(server), wrapperBlock(""), mistakesPage)
}

// whose names the site of the handler that is being provisioned. Caddy provisions a
// server's routes in order, and empties the JSON of each when it is done.
func whose(server *caddyhttp.Server) string {
	at := " at " + strings.Join(server.Listen, ", ")
	for _, route := range server.Routes {
		if route.HandlersRaw != nil {
			return " of the site " + strings.Join(hosts(route), ", ") + at
		}
	}
	return " of a site" + at
}

// wrapperBlock returns the lines for a servers block, as a Caddyfile has them.
func wrapperBlock(offload string) string {
	options := ""
	if offload != "" {
		options = " {\n\t\t\toffload " + offload + "\n\t\t}"
	}
	return "\n\tlistener_wrappers {\n\t\tktls" + options + "\n\t}"
}

// nested reports whether the handler that is being provisioned stands deeper than at the
// top of a site block of a Caddyfile: then Caddy drops the site's listener wrapper. A site
// with a host is a subroute of its own.
func nested(ctx caddy.Context, server *caddyhttp.Server) bool {
	// Caddy provisions handle_errors and the named routes after the sites, see whose.
	if !slices.ContainsFunc(server.Routes, func(route caddyhttp.Route) bool { return route.HandlersRaw != nil }) {
		return true
	}
	depth := 0
	for _, module := range ctx.Modules() {
		switch module.(type) {
		case *Handler:
		case *caddyhttp.Subroute:
			depth++
		case caddyhttp.MiddlewareHandler:
			return true // handle_response of reverse_proxy, or of intercept
		}
	}
	return depth > 1 || depth == 1 && !slices.ContainsFunc(server.Routes, func(route caddyhttp.Route) bool { return hosts(route)[0] != "*" })
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

package caddyktls

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A site is a route of a server that has not been provisioned yet, with the handlers in
// it. In a Caddyfile that is a site block, unless it has no host.
type site struct {
	hosts    []string
	handlers []string // names of all handlers in it
	ktls     []place
}

// shares reports whether a request may come to both routes, as far as their hosts say. A
// site without a host is several routes.
func (s site) shares(other site) bool {
	isPattern := func(host string) bool { return strings.ContainsAny(host, "*{") }
	return slices.ContainsFunc(s.hosts, isPattern) || slices.ContainsFunc(other.hosts, isPattern) ||
		slices.ContainsFunc(s.hosts, func(host string) bool {
			return slices.ContainsFunc(other.hosts, func(o string) bool { return strings.EqualFold(host, o) })
		})
}

// mayHaveFiles reports whether a route may send files.
func (s site) mayHaveFiles() bool {
	return slices.ContainsFunc(s.handlers, func(name string) bool { return !slices.Contains(fileless, name) })
}

// A place is where the handler ktls stands.
type place struct {
	path    string   // in the configuration, below that of the server
	before  []string // the handlers that every request passes before it comes here
	offload string   // as given
}

// sites returns the routes of a server. It works while the server's listener wrappers are
// being provisioned: then the handlers are still there as JSON.
func sites(server *caddyhttp.Server) (all []site) {
	var before []string // a route without a host may apply to the next one too
	for i, route := range server.Routes {
		s := site{hosts: hosts(route)}
		passed := s.find(rawHandlers(route.HandlersRaw), fmt.Sprintf("routes/%d", i), before)
		if len(route.MatcherSets) == 0 {
			before = passed
		}
		all = append(all, s)
	}
	return all
}

func rawHandlers(raw []json.RawMessage) (handlers []any) {
	for _, message := range raw {
		var handler any
		_ = json.Unmarshal(message, &handler) // Caddy reports errors
		handlers = append(handlers, handler)
	}
	return handlers
}

// find looks for ktls in the handlers of a route. It returns before with the names of the
// handlers that a request passes in the route.
func (s *site) find(handlers []any, path string, before []string) []string {
	passed := slices.Clip(before)
	for i, v := range handlers {
		handler, _ := v.(map[string]any)
		name, _ := handler["handler"].(string)
		here := fmt.Sprintf("%s/handle/%d", path, i)
		s.handlers = append(s.handlers, name)
		if name == "ktls" {
			offload, _ := handler["offload"].(string)
			s.ktls = append(s.ktls, place{here, passed, offload})
		}
		passed = append(slices.Clip(passed), name)
		routes, _ := handler["routes"].([]any)
		for j, v := range routes {
			route, _ := v.(map[string]any)
			handlers, _ := route["handle"].([]any)
			inner := s.find(handlers, fmt.Sprintf("%s/routes/%d", here, j), passed)
			if matchers, _ := route["match"].([]any); len(matchers) == 0 {
				passed = inner
			}
		}
	}
	return passed
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

// namedHandler reports whether the handler ktls is in a named route of a server. The
// sites may invoke it.
func namedHandler(server *caddyhttp.Server) bool {
	for _, route := range server.NamedRoutes {
		if hasHandler(*route) {
			return true
		}
	}
	return false
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

package caddyktls

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// http3ByDefault reports whether a server speaks HTTP/3 because nobody has named
// protocols. Whoever names just the default ones can't be told apart.
func http3ByDefault(server *caddyhttp.Server) bool {
	return server.ListenProtocols == nil && slices.Equal(server.Protocols, []string{"h1", "h2", "h3"}) && !onlyUnixSockets(server)
}

// onlyUnixSockets reports whether a server has no other addresses.
func onlyUnixSockets(server *caddyhttp.Server) bool {
	return !slices.ContainsFunc(server.Listen, func(address string) bool {
		parsed, err := caddy.ParseNetworkAddress(address)
		return err != nil || !parsed.IsUnixNetwork()
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

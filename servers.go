package caddyktls

import (
	"cmp"
	"fmt"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// wrappedServers are the HTTP servers of all loaded configurations that have the
// listener wrapper. The handler looks there, because Caddy empties a server's own
// list of wrappers when it loads them.
var wrappedServers serverSet

type serverSet struct {
	mu      sync.Mutex // guards servers; no other lock is taken while it is held
	servers map[*caddyhttp.Server]*wrappedServer
}

type wrappedServer struct {
	all      bool // all connections are offloaded, see ktls.Options.OffloadAll
	wrappers int  // the directive may stand in several sites
}

// add adds a wrapper of a server, and reports whether it is the first. All wrappers of a
// server must have the same value of the option offload.
func (s *serverSet) add(server *caddyhttp.Server, all bool) (first bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers == nil {
		s.servers = make(map[*caddyhttp.Server]*wrappedServer)
	}
	known := s.servers[server]
	if known == nil {
		known = &wrappedServer{all: all}
		s.servers[server] = known
	}
	if known.all != all {
		return false, fmt.Errorf("ktls: the sites at %s share one server, but have different values of the option offload:%s. Give them all the same",
			strings.Join(server.Listen, ", "), offloadsOf(server))
	}
	known.wrappers++
	return known.wrappers == 1, nil
}

// offloadsOf lists what the sites of a server give for the option offload.
func offloadsOf(server *caddyhttp.Server) (list string) {
	for _, s := range sites(server) {
		for _, p := range s.ktls {
			list += fmt.Sprintf("\n\t%s: offload %s", strings.Join(s.hosts, ", "), cmp.Or(p.offload, "large (the default)"))
		}
	}
	return list
}

// remove undoes one call of add.
func (s *serverSet) remove(server *caddyhttp.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.servers[server]; known != nil {
		if known.wrappers--; known.wrappers == 0 {
			delete(s.servers, server)
		}
	}
}

// offload reports whether all connections of a server are offloaded, and whether it
// has a wrapper at all.
func (s *serverSet) offload(server *caddyhttp.Server) (all, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.servers[server]
	if known == nil {
		return false, false
	}
	return known.all, true
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// measureIdle gives the memory that an open connection takes which has had one
// request: what the server has more with them than without.
func (b *bench) measureIdle(ctx context.Context, s *server, step step, sample *Sample) error {
	w, err := newWitness(ctx, s)
	if err != nil {
		return err
	}
	before, err := s.memory(ctx)
	if err != nil {
		return err
	}
	clients := make([]*http.Client, step.Connections)
	defer func() {
		for _, client := range clients {
			if client != nil {
				client.CloseIdleConnections()
			}
		}
	}()
	for i := range clients {
		// A client each, so that no connection is used twice.
		clients[i] = newClient(step.Protocol, b.roots)
		if err := fetch(ctx, clients[i], s, step.Case); err != nil {
			return err
		}
	}
	if err := w.check(ctx, step.Case, step.Connections, int64(step.Connections)*step.Size); err != nil {
		return err
	}
	after, err := s.memory(ctx)
	if err != nil {
		return err
	}
	for name := range after {
		sample.Values[name] = (after[name] - before[name]) / float64(step.Connections)
	}
	return nil
}

// memory returns what the server has taken: its resident set, and for Caddy the
// objects in Go's heap and its stacks after a collection.
func (s *server) memory(ctx context.Context) (map[string]float64, error) {
	memory := map[string]float64{}
	if s.caddy() {
		// The second collection frees what the first has finalized. They need the
		// server's time, and so does what pools keep. Each halves a stack that has room.
		for range 4 {
			if err := s.collectGarbage(ctx); err != nil {
				return nil, err
			}
			time.Sleep(200 * time.Millisecond)
		}
		heap, err := s.metric(ctx, "go_memstats_heap_alloc_bytes")
		if err != nil {
			return nil, err
		}
		stacks, err := s.metric(ctx, "go_memstats_stack_inuse_bytes")
		if err != nil {
			return nil, err
		}
		if heap == 0 || stacks == 0 {
			return nil, fmt.Errorf("%s has no metrics of its memory", s.name)
		}
		memory["heap+stack-B/conn"] = heap + stacks
	}
	resident, err := residentSet(s.pids)
	memory["rss-B/conn"] = resident
	return memory, err
}

// allocated returns how many bytes of Go's heap Caddy has allocated so far. The metrics of
// Caddy don't say it: there, small objects count when their span is full.
func (s *server) allocated(ctx context.Context) (float64, error) {
	text, err := getText(ctx, fmt.Sprintf("http://localhost:%d/debug/vars", s.admin))
	if err != nil {
		return 0, err
	}
	var vars struct {
		Memory struct{ TotalAlloc float64 } `json:"memstats"`
	}
	if err := json.Unmarshal([]byte(text), &vars); err != nil {
		return 0, err
	}
	if vars.Memory.TotalAlloc == 0 {
		return 0, fmt.Errorf("%s does not say what it has allocated", s.name)
	}
	return vars.Memory.TotalAlloc, nil
}

// collectGarbage has Caddy collect Go's garbage, so that what is measured next
// begins alike each time.
func (s *server) collectGarbage(ctx context.Context) error {
	if !s.caddy() {
		return nil
	}
	_, err := getText(ctx, fmt.Sprintf("http://localhost:%d/debug/pprof/heap?gc=1", s.admin))
	return err
}

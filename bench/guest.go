package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// A job is what a host has a guest do.
type job struct {
	Parameters Parameters `json:"parameters"`
	Kernel     string     `json:"kernel"`
	// Serve has the guest measure nothing, but run the servers for clients outside.
	Serve bool `json:"serve"`
}

// The ports of a guest that serves: that of the first of allServers, that of its
// proxied bodies, and that of the control, through which the host reads counters and ends it.
const (
	guestPort   = 8440
	proxyPort   = 8480
	h2cPort     = 8430
	controlPort = 8400
)

// runGuest does the job in a file and prints events.
func runGuest(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	var lock sync.Mutex
	report := func(e event) {
		line, _ := json.Marshal(e)
		lock.Lock()
		defer lock.Unlock()
		fmt.Printf("%s\n", line)
	}
	p := programs{caddy: "/caddy", nginx: findNginx()}
	m := thisMachine()
	m.addVersions(ctx, p)
	report(event{Machine: &m})
	if j.Serve {
		return serve(ctx, j, p, report)
	}
	b, err := newBench(ctx, j.Parameters, j.Kernel, p, "/tmp/bench", report)
	if err != nil {
		return err
	}
	return b.run(ctx, j.Kernel)
}

// serve runs the servers until the host ends it.
func serve(ctx context.Context, j job, p programs, report func(event)) error {
	const dir = "/tmp/bench"
	site := site{filepath.Join(dir, "site")}
	if err := os.MkdirAll(site.dir, 0o755); err != nil {
		return err
	}
	if err := site.add(j.Parameters.MemoryBytes); err != nil {
		return err
	}
	if _, err := writeCertificate(dir); err != nil {
		return err
	}
	control := http.NewServeMux()
	quit := make(chan struct{})
	control.HandleFunc("/quit", func(http.ResponseWriter, *http.Request) { close(quit) })
	control.HandleFunc("/cert", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(dir, "cert.pem"))
	})
	for i, name := range allServers {
		if !j.Parameters.starts(name) {
			continue
		}
		s := &server{name: name, host: "0.0.0.0", port: guestPort + i, h2c: h2cPort, dir: filepath.Join(dir, name)}
		if s.caddy() {
			s.admin = guestPort + 20 + i
		}
		if j.Parameters.proxies() && name != plain {
			s.proxy, s.backend = proxyPort+i, guestPort+rank(allServers, plain)
		}
		if err := s.start(ctx, p, site, dir); err != nil {
			return err
		}
		control.HandleFunc("/witness/"+name, func(w http.ResponseWriter, r *http.Request) {
			found, err := newWitness(r.Context(), s)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_ = json.NewEncoder(w).Encode(found)
		})
	}
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", controlPort))
	if err != nil {
		return err
	}
	go func() { report(event{Error: http.Serve(listener, control).Error()}) }()
	report(event{Ready: true})
	select {
	case <-quit:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

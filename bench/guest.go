package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A job is what is measured on one kernel. A guest is given it as JSON.
type job struct {
	Parameters Parameters `json:"parameters"`
	Kernel     string     `json:"kernel"`
	// Serve has a guest measure nothing, but run the servers for clients outside.
	Serve bool `json:"serve"`
	// Collects has Go collect garbage as usual, for the workloads that take memory or times.
	Collects bool `json:"collects"`
	// Network has clients and servers of a guest in namespaces, with a network between.
	Network bool `json:"network"`
}

// collected are the workloads of jobs with Collects.
var collected = []string{sequence, idle, slow, distant, diskLoads}

// uncollected says that Go collects garbage between runs only. A collection takes tens of
// millions of instructions. It would fall into one short run and not into another.
func (j job) uncollected() bool {
	return j.Parameters.Counted && !j.Parameters.Timed && !j.Serve && !j.Network && !j.Collects
}

// The ports of a guest that serves: the control, through which the host reads
// counters and ends it, and guestPorts of each server.
const controlPort = 8400

// guestPorts returns the ports of a server, in the order of choosePorts.
func guestPorts(server string) []int {
	first := controlPort + 10*(1+rank(allServers, server))
	return []int{first, first + 1, first + 2, first + 3}
}

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
	b, err := startBench(ctx, j, programs{caddy: "/caddy", nginx: findNginx()}, "/tmp/bench", report)
	switch {
	case err != nil:
		return err
	case j.Serve:
		return b.serve(ctx)
	}
	return b.run(ctx)
}

// neverIdle keeps the processor busy with what yields to everything else. While a machine
// with --icount idles, its clock jumps from one timer to the next. So the connections of
// clients outside, who take real time to answer, would time out.
func neverIdle(ctx context.Context) error {
	loop := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	if err := loop.Start(); err != nil {
		return err
	}
	return unix.SchedSetAttr(loop.Process.Pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
}

// serve lets clients outside use the servers until the host ends it.
func (b *bench) serve(ctx context.Context) error {
	if err := neverIdle(ctx); err != nil {
		return err
	}
	control := http.NewServeMux()
	ctx, quit := context.WithCancel(ctx)
	control.HandleFunc("/quit", func(http.ResponseWriter, *http.Request) { quit() })
	control.HandleFunc("/cert", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(b.dir, "cert.pem"))
	})
	control.HandleFunc("/witness/{server}", func(w http.ResponseWriter, r *http.Request) {
		found, err := newWitness(r.Context(), b.servers[r.PathValue("server")])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(found)
	})
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", controlPort))
	if err != nil {
		return err
	}
	go func() { b.report(event{Error: http.Serve(listener, control).Error()}) }()
	b.report(event{Ready: true})
	<-ctx.Done()
	return nil
}

package main

import (
	"context"
	"net/http"
	"time"
)

// sequenceSizes are the files that the workload sequence requests in each of its
// rounds, in bytes: one more than 8, 9 and 64 times 16 KiB, what a record or frame
// has at most. So there is a short rest, which must wait for nothing.
var sequenceSizes = []int64{128<<10 + 1, 144<<10 + 1, 1<<20 + 1}

// sequenceRounds is how often each file is requested from each server.
const sequenceRounds = 40

// measureSequence gives the time of a request whose connection has no other, from
// the request to the last byte. The times of all servers and files are taken at
// once, for the first of them.
func (b *bench) measureSequence(ctx context.Context, step step, sample *Sample) error {
	if len(b.sequences[step.Case]) == 0 {
		if err := b.runSequence(ctx, step.Case); err != nil {
			return err
		}
	}
	sample.Values["request-us"] = summarize(b.sequences[step.Case]).Center
	return nil
}

// runSequence requests all files from each server in turn, again and again, on
// one connection to each. The first round makes the connections and is not timed.
func (b *bench) runSequence(ctx context.Context, first Case) error {
	type peer struct {
		server *server
		cases  []Case
		client *http.Client
		w      witness
	}
	var peers []peer
	var roundBytes int64
	for _, size := range sequenceSizes {
		roundBytes += size
	}
	for _, name := range b.job.Parameters.serversOf(first) {
		if b.servers[name] == nil {
			continue
		}
		p := peer{server: b.servers[name], client: newClient(first.Protocol, b.roots)}
		defer p.client.CloseIdleConnections() // when all are done
		for _, size := range sequenceSizes {
			c := first
			c.Server, c.Size = name, size
			p.cases = append(p.cases, c)
			if err := b.compareBody(ctx, p.server, c); err != nil {
				return err
			}
		}
		peers = append(peers, p)
	}
	for round := range sequenceRounds + 1 {
		for i := range peers {
			p := &peers[(i+round)%len(peers)]
			if round < 2 { // before the first, and before those that are timed
				var err error
				if p.w, err = newWitness(ctx, p.server); err != nil {
					return err
				}
			}
			for _, c := range p.cases {
				start := time.Now()
				if err := fetch(ctx, p.client, p.server, c); err != nil {
					return err
				}
				if round > 0 {
					b.sequences[c] = append(b.sequences[c], float64(time.Since(start).Nanoseconds())/1e3)
				}
			}
			if round == 0 {
				if err := p.w.check(ctx, p.cases[0], 1, roundBytes); err != nil {
					return err
				}
			}
		}
	}
	for _, p := range peers {
		// No connection is a new one any more.
		if err := p.w.check(ctx, p.cases[0], 0, sequenceRounds*roundBytes); err != nil {
			return err
		}
	}
	return nil
}

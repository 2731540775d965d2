package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"time"
)

// networkSize is the length of the bodies of the workload network, in bytes.
const networkSize = 4 << 20

// afterIdleSize is the length of the bodies of the workload after-idle, in bytes.
const afterIdleSize = 1 << 20

// idleTime is how long a connection waits for its next request in the workload
// first-byte.
const idleTime = 5 * time.Second

// keepAliveSizes are the files of the workload keep-alive: around what makes the module
// send a file, and around whole records.
var keepAliveSizes = []int64{
	switchSize - 1, switchSize, switchSize + 1,
	9*16384 - 300, 9*16384 - 1, 9 * 16384, 9*16384 + 1, 9*16384 + 300,
	1 << 10, 16384, 64<<10 + 1, 257<<10 + 13,
}

// keepAliveRequests is how many requests the workload keep-alive makes on a connection.
const keepAliveRequests = 300

// lateBy is how much longer than the median a request takes if somebody waits for a timer,
// in milliseconds: the least delay of an acknowledgment is 40 ms, the cork's time 200 ms.
const lateBy = 35

// measureNetwork gives the times of requests over a network. The client is in a namespace
// of its own. What a connection costs is not in them.
func (b *bench) measureNetwork(ctx context.Context, s *server, step step, sample *Sample) error {
	if err := b.link.set(ctx, step.Network); err != nil {
		return err
	}
	client := newClient(step.Protocol, b.roots)
	client.Transport.(*http.Transport).DialContext = b.link.dial
	defer client.CloseIdleConnections()
	visit := func(size int64) (first, whole time.Duration, err error) {
		c := step.Case
		c.Size = size
		return timedBody(ctx, client, s.url(c), b.site.file(size), c.major())
	}
	offloads := 1 // connections that are offloaded while it is measured
	switch step.Workload {
	case network:
		if _, _, err := visit(connectSize); err != nil {
			return err
		}
	case afterIdle:
		if _, _, err := visit(step.Size); err != nil {
			return err
		}
		if err := sleep(ctx, idleTime); err != nil {
			return err
		}
		offloads = 0
	}
	w, err := newWitness(ctx, s)
	if err != nil {
		return err
	}
	if step.Workload != keepAlive {
		first, whole, err := visit(step.Size)
		if err != nil {
			return err
		}
		sample.Values["first-ms"], sample.Values["whole-ms"] = milliseconds(first), milliseconds(whole)
		return w.check(ctx, step.Case, offloads, step.Size)
	}
	var sent int64
	var times []float64
	for i := range keepAliveRequests {
		size := keepAliveSizes[i%len(keepAliveSizes)]
		_, whole, err := visit(size)
		if err != nil {
			return err
		}
		times = append(times, milliseconds(whole))
		if size >= switchSize {
			sent += size
		}
	}
	for _, p := range []int{50, 99, 100} {
		sample.Values[fmt.Sprintf("p%d-ms", p)] = percentile(times, float64(p)/100)
	}
	late := 0
	for _, ms := range times {
		if ms > sample.Values["p50-ms"]+lateBy {
			late++
		}
	}
	sample.Values["late"] = float64(late)
	return w.check(ctx, step.Case, offloads, sent)
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// timedBody fetches a body and compares it with a file. It returns the times from the
// request to the first byte of the body and to its end.
func timedBody(ctx context.Context, client *http.Client, url, file string, major int) (first, whole time.Duration, err error) {
	got := timedHash{Hash: sha256.New()}
	begin := time.Now()
	n, err := get(ctx, client, url, "", major, &got)
	whole = time.Since(begin)
	if err != nil {
		return 0, 0, err
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	want := sha256.New()
	length, err := io.Copy(want, f)
	if err == nil && (n != length || string(got.Sum(nil)) != string(want.Sum(nil))) {
		err = fmt.Errorf("%s: %d bytes that are not those of the file, which has %d", url, n, length)
	}
	return got.first.Sub(begin), whole, err
}

// A timedHash notes when the first byte is written to it.
type timedHash struct {
	hash.Hash
	first time.Time
}

func (t *timedHash) Write(p []byte) (int, error) {
	if t.first.IsZero() && len(p) > 0 {
		t.first = time.Now()
	}
	return t.Hash.Write(p)
}

package benchmark

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	// rounds is how often both sides are measured for each protocol.
	rounds = 5
	// warmUp is how long each side serves before it is measured.
	warmUp = time.Second
	// patience limits the wait for the servers' certificates.
	patience = time.Minute
)

var sides = []string{stock, moved}

// A bench is what the measurements are made with.
type bench struct {
	options  *options
	progress *progress
	file     string // path of what is served
	servers  map[string]*server
	client   *child
}

// measure measures until ctx is done. It then returns a report of what was measured, and
// the error of what was not.
func measure(ctx context.Context, o *options, p *progress) (*report, error) {
	defer p.end()
	r := newReport(o)
	dir, err := os.MkdirTemp("", "caddy-ktls-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, progress: p, servers: map[string]*server{}}
	defer b.end(false)
	if err := b.setUp(ctx, dir); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { b.end(true) })
	defer stop()
	for _, protocol := range o.protocols {
		if err := b.compare(ctx, r, r.protocol(protocol)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// setUp makes the file, and starts the processes.
func (b *bench) setUp(ctx context.Context, dir string) (err error) {
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	b.file = filepath.Join(root, fileName)
	if b.options.file != "" {
		theirs, err := filepath.Abs(b.options.file)
		if err != nil {
			return err
		}
		if err := os.Symlink(theirs, b.file); err != nil {
			return err
		}
	} else if err := makeFile(ctx, b.file, b.options.size); err != nil {
		return err
	}
	if b.client, err = start("client", dir); err != nil {
		return err
	}
	for _, side := range sides {
		if b.servers[side], err = startServer(side, dir, b.options); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// end ends the processes.
func (b *bench) end(now bool) {
	if b.client != nil {
		b.client.end(now)
	}
	for _, s := range b.servers {
		if s != nil {
			s.end(now)
		}
	}
}

// makeFile makes a file of n random bytes.
func makeFile(ctx context.Context, name string, n int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{})
	for piece := make([]byte, 1<<20); n > 0; n -= int64(len(piece)) {
		piece = piece[:min(n, int64(len(piece)))]
		_, _ = random.Read(piece)
		if _, err := f.Write(piece); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return f.Close()
}

// compare measures both sides over one protocol.
func (b *bench) compare(ctx context.Context, r *report, p *protocolReport) error {
	for _, side := range sides {
		b.progress.show("warming up", p.Protocol, side)
		if err := b.begin(ctx, side, p.Protocol); err != nil {
			return err
		}
		if _, err := b.turn(side, p.Protocol, warmUp); err != nil {
			return err
		}
	}
	for round := range rounds {
		var both [2]turn
		for i := range sides {
			i = (i + round) % 2
			b.progress.show(fmt.Sprintf("round %d of %d", round+1, rounds), p.Protocol, sides[i])
			var err error
			if both[i], err = b.turn(sides[i], p.Protocol, b.options.time/rounds); err != nil {
				return err
			}
		}
		p.add(both[0], both[1])
		r.TLS = both[1].got.TLS
	}
	return ctx.Err()
}

// begin makes the client's connections, as soon as the server has its certificate.
func (b *bench) begin(ctx context.Context, side, protocol string) error {
	for deadline := time.Now().Add(patience); ; {
		_, err := b.turn(side, protocol, 0)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(err, ctx.Err())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// A turn is what was measured of one side at one time.
type turn struct {
	used usage
	got  download
}

// turn has the client download from one side for so long.
func (b *bench) turn(side, protocol string, duration time.Duration) (t turn, err error) {
	s := b.servers[side]
	before, err := s.usage()
	if err != nil {
		return t, err
	}
	t.got, err = ask[download](b.client, order{
		Address: s.address, Root: s.root, Protocol: protocol, File: b.file,
		Connections: b.options.connections, Time: duration,
	})
	if err != nil {
		return t, err
	}
	after, err := s.usage()
	if err != nil {
		return t, err
	}
	t.used = after.since(before)
	return t, t.used.wantWork(side, t.got, b.options.connections)
}

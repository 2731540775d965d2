package benchmark

import (
	"context"
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
)

var sides = []string{stock, moved}

// A bench is what the measurements are made with.
type bench struct {
	options  *options
	progress *progress
	file     string // path of what is served
	children children
	servers  map[string]*server
	client   *child
}

// measure measures until ctx is done. It then returns a report of what was measured, and
// an error.
func measure(ctx context.Context, o *options, p *progress) (*report, error) {
	defer p.end()
	r := newReport(o)
	dir, err := os.MkdirTemp("", "caddy-ktls-bench-")
	if err != nil {
		return r, fmt.Errorf("making a folder for temporary files (TMPDIR names another place): %w", err)
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return r, err
	}
	b := &bench{options: o, progress: p, servers: map[string]*server{}}
	defer b.children.end()
	defer context.AfterFunc(ctx, b.children.end)()
	if err := b.setUp(ctx, dir); err != nil {
		return r, err
	}
	for _, protocol := range o.protocols {
		if err := b.compare(ctx, r, r.protocol(protocol)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// setUp makes the file, and starts the processes.
func (b *bench) setUp(ctx context.Context, dir string) (err error) {
	b.progress.show("preparing")
	root := filepath.Join(dir, rootName)
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
		return fmt.Errorf("making the file that is served (--size makes a smaller one, TMPDIR names another place): %w", err)
	}
	if b.client, err = b.children.start("client", "client", dir); err != nil {
		return err
	}
	for _, side := range sides {
		if b.servers[side], err = startServer(&b.children, side, dir, b.options); err != nil {
			return err
		}
	}
	return nil
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
		b.progress.show("warming up, " + p.Protocol)
		if _, err := b.turn(side, p.Protocol, warmUp); err != nil {
			return err
		}
	}
	for round := range rounds {
		var both [2]turn
		for i := range sides {
			i = (i + round) % 2
			b.progress.show(fmt.Sprintf("round %d of %d, %s, %s", round+1, rounds, p.Protocol, sides[i]))
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

// A turn is what was measured of one side at one time.
type turn struct {
	used usage
	got  download
}

// turn has the client download from one side for so long.
func (b *bench) turn(side, protocol string, duration time.Duration) (t turn, err error) {
	defer b.progress.turn()
	s := b.servers[side]
	before, err := s.usage()
	if err != nil {
		return t, err
	}
	t.got, err = ask[download](b.client, order{
		Address: s.address, Root: s.root, Protocol: protocol, File: b.file,
		Connections: b.options.connections, Time: duration,
	}, 0)
	if err != nil {
		// If the server has ended, its log says why.
		return t, fmt.Errorf("downloading from the %s: %w\n%s", s.name, err, s.log.text())
	}
	after, err := s.usage()
	if err != nil {
		return t, err
	}
	t.used = after.since(before)
	return t, t.used.wantWork(side, t.got, b.options.connections)
}

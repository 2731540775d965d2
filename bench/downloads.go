package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// downloads are clients that read at the same time, a connection each, until they are
// stopped. That has to be before one of them has read all.
type downloads struct {
	ctx    context.Context
	cancel context.CancelFunc
	n      int
	ended  sync.WaitGroup
	bytes  atomic.Int64 // of bodies
	failed chan error   // the first failure
}

func newDownloads(ctx context.Context, s *server, c Case, roots *x509.CertPool) *downloads {
	d := &downloads{n: c.Connections, failed: make(chan error, 1)}
	d.ctx, d.cancel = context.WithCancel(ctx)
	for range c.Connections {
		d.ended.Go(func() { d.run(s, c, roots) })
	}
	return d
}

func (d *downloads) run(s *server, c Case, roots *x509.CertPool) {
	client := newClient(c.Protocol, roots)
	defer client.CloseIdleConnections()
	_, err := get(d.ctx, client, s.url(c), "", c.major(), counter{&d.bytes})
	if d.ctx.Err() != nil {
		return
	}
	if err == nil {
		err = errors.New("it has ended")
	}
	select {
	case d.failed <- fmt.Errorf("a download: %w", err):
	default:
	}
}

// await waits until that many bytes more were read for each client.
func (d *downloads) await(each int64) error {
	for want := d.bytes.Load() + int64(d.n)*each; d.bytes.Load() < want; {
		select {
		case err := <-d.failed:
			return err
		default:
		}
		if err := sleep(d.ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// stop returns when the clients have ended. It may be called twice.
func (d *downloads) stop() {
	d.cancel()
	d.ended.Wait()
}

// A counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

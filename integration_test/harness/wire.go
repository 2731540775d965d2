package harness

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A Wire keeps what a client receives, as it comes from the network.
type Wire struct {
	mu       sync.Mutex // guards received
	received bytes.Buffer
	open     sync.WaitGroup // connections
}

// Tap records what a client's connections receive.
func (w *Wire) Tap(client *http.Client) {
	transport := client.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.open.Add(1)
		return &tappedConn{Conn: conn, wire: w}, nil
	}
}

// Content returns what has come when all connections are closed.
func (w *Wire) Content() []byte {
	w.open.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.received.Bytes()
}

// A tappedConn is a connection of a Wire.
type tappedConn struct {
	net.Conn
	wire  *Wire
	close sync.Once
}

func (c *tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.received.Write(p[:n])
	return n, err
}

// Close goes on reading for a while. A client closes as soon as it finds a record that it
// does not understand.
func (c *tappedConn) Close() (err error) {
	c.close.Do(func() {
		defer c.wire.open.Done()
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.Copy(io.Discard, readerFunc(c.Read))
		err = c.Conn.Close()
	})
	return err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// InClear returns where a piece of a file is on the wire without encryption, or -1. Each
// piece of 64 bytes has a whole block of 32 bytes in it.
func InClear(wire, file []byte) int {
	const size = 32
	blocks := make(map[string]bool, len(file)/size)
	for i := 0; i+size <= len(file); i += size {
		blocks[string(file[i:i+size])] = true
	}
	for i := 0; i+size <= len(wire); i++ {
		if blocks[string(wire[i:i+size])] {
			return i
		}
	}
	return -1
}

package benchmark

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// An order tells the client what to download.
type order struct {
	Address  string `json:"address"` // of the server
	Root     string `json:"root"`    // path of the certificate to trust
	Protocol string `json:"protocol"`
	File     string `json:"file"` // path of the file that bodies must equal
	// Connections is how many download, each one body after the other, until so much
	// time has passed. Then they get the rest of the bodies that they have begun.
	Connections int           `json:"connections"`
	Time        time.Duration `json:"time"`
}

// A download is what the client has got.
type download struct {
	Bytes     int64         `json:"bytes"` // of bodies
	Responses int64         `json:"responses"`
	Time      time.Duration `json:"time"` // until the last byte
	// FirstBytes are how long the first byte of each body took, from before the request.
	FirstBytes []time.Duration `json:"first_bytes"`
	TLS        string          `json:"tls"` // version and cipher
}

// A client keeps its connections to both servers while the protocol stays the same.
type client struct {
	protocol string
	workers  map[string][]*worker // by the address of the server
	file     *os.File
	size     int64
}

func clientCommand() *cobra.Command {
	c := new(client)
	return hidden("client", c.download)
}

// download does what an order says.
func (c *client) download(o order) (download, error) {
	if c.protocol != o.Protocol {
		for _, workers := range c.workers {
			for _, w := range workers {
				w.client.CloseIdleConnections()
			}
		}
		c.protocol, c.workers = o.Protocol, map[string][]*worker{}
	}
	if c.file == nil {
		file, err := os.Open(o.File)
		if err != nil {
			return download{}, err
		}
		info, err := file.Stat()
		if err != nil {
			return download{}, err
		}
		c.file, c.size = file, info.Size()
	}
	for len(c.workers[o.Address]) < o.Connections {
		w, err := c.newWorker(o)
		if err != nil {
			return download{}, err
		}
		c.workers[o.Address] = append(c.workers[o.Address], w)
	}
	return work(c.workers[o.Address], o.Time)
}

// work has all workers download for so long. The error is that of the first who has one.
func work(workers []*worker, duration time.Duration) (sum download, err error) {
	begun := time.Now()
	var wait sync.WaitGroup
	for _, w := range workers {
		w.got, w.err = download{}, nil
		wait.Go(func() {
			for first := true; w.err == nil && (first || time.Since(begun) < duration); first = false {
				w.err = w.get()
			}
		})
	}
	wait.Wait()
	sum.Time = time.Since(begun)
	for _, w := range workers {
		if w.err != nil {
			return sum, w.err
		}
		sum.Bytes += w.got.Bytes
		sum.Responses += w.got.Responses
		sum.FirstBytes = append(sum.FirstBytes, w.got.FirstBytes...)
		sum.TLS = w.got.TLS
	}
	return sum, nil
}

// A worker downloads over a connection of its own.
type worker struct {
	client *http.Client
	url    string
	proto  string
	file   *os.File
	size   int64

	body, want [32 << 10]byte
	got        download
	err        error
}

func (c *client) newWorker(o order) (*worker, error) {
	pem, err := os.ReadFile(o.Root)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	_, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, err
	}
	w := &worker{url: "https://localhost:" + port + "/" + fileName, proto: "HTTP/1.1", file: c.file, size: c.size}
	protocols := new(http.Protocols)
	if o.Protocol == http2 {
		w.proto = "HTTP/2.0"
		protocols.SetHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
	}
	w.client = &http.Client{Transport: &http.Transport{
		Protocols: protocols, MaxConnsPerHost: 1, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, o.Address)
		},
	}}
	return w, nil
}

var errStalled = fmt.Errorf("the server has sent nothing for %v", patience)

// get downloads the file once, and compares. It fails if nothing comes for long.
func (w *worker) get() error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	stalled := time.AfterFunc(patience, func() { cancel(errStalled) })
	defer stalled.Stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	if err != nil {
		return err
	}
	begun := time.Now()
	resp, err := w.client.Do(r)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Proto != w.proto || resp.ContentLength != w.size {
		return fmt.Errorf("the response is %s over %s with %d bytes, not 200 over %s with %d",
			resp.Status, resp.Proto, resp.ContentLength, w.proto, w.size)
	}
	w.got.TLS = fmt.Sprintf("%s with %s", tls.VersionName(resp.TLS.Version), tls.CipherSuiteName(resp.TLS.CipherSuite))
	var at int64
	for at < w.size {
		n, err := resp.Body.Read(w.body[:])
		stalled.Reset(patience)
		if at == 0 && n > 0 {
			w.got.FirstBytes = append(w.got.FirstBytes, time.Since(begun))
		}
		if _, err := w.file.ReadAt(w.want[:n], at); err != nil {
			return fmt.Errorf("the file has changed: %w", err)
		}
		if !bytes.Equal(w.body[:n], w.want[:n]) {
			return fmt.Errorf("the body differs from the file between bytes %d and %d", at, at+int64(n))
		}
		if at += int64(n); err != nil && at < w.size {
			return fmt.Errorf("after %d of %d bytes: %w", at, w.size, cmp.Or(context.Cause(ctx), err))
		}
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	w.got.Bytes += at
	w.got.Responses++
	return nil
}

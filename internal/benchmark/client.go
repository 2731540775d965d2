package benchmark

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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

// clientCommand returns the client. It keeps its connections between orders.
func clientCommand() *cobra.Command {
	all := map[string][]*worker{}
	return hidden("client", func(o order) (download, error) {
		key := o.Address + " " + o.Protocol
		for len(all[key]) < o.Connections {
			w, err := newWorker(o)
			if err != nil {
				return download{}, err
			}
			all[key] = append(all[key], w)
		}
		return work(all[key], o.Time)
	})
}

// work has all workers download for so long.
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
		sum.Bytes += w.got.Bytes
		sum.Responses += w.got.Responses
		sum.FirstBytes = append(sum.FirstBytes, w.got.FirstBytes...)
		sum.TLS = w.got.TLS
		err = errors.Join(err, w.err)
	}
	return sum, err
}

// A worker downloads over a connection of its own.
type worker struct {
	client *http.Client
	url    string
	proto  string
	file   *os.File
	size   int64

	body, want [64 << 10]byte
	got        download
	err        error
}

func newWorker(o order) (*worker, error) {
	pem, err := os.ReadFile(o.Root)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	file, err := os.Open(o.File)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, err
	}
	w := &worker{url: "https://localhost:" + port + "/" + fileName, proto: "HTTP/1.1", file: file, size: info.Size()}
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

// get downloads the file once, and compares.
func (w *worker) get() error {
	begun := time.Now()
	resp, err := w.client.Get(w.url)
	if err != nil {
		return err
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
			return fmt.Errorf("after %d of %d bytes: %w", at, w.size, err)
		}
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	w.got.Bytes += at
	w.got.Responses++
	return nil
}

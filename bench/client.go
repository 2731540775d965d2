package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"time"
)

// newClient returns a client for one version of HTTP, with connections of its
// own.
func newClient(protocol string, roots *x509.CertPool) *http.Client {
	var protocols http.Protocols
	if protocol == http1 {
		protocols.SetHTTP1(true)
	} else {
		protocols.SetHTTP2(true)
		protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: &http.Transport{
		Protocols:          &protocols,
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		DisableCompression: true,
	}}
}

// get copies the body at an address to w, or the part of it that a value of Range
// names, and returns its length. The response has to have that status and version
// of HTTP.
func get(ctx context.Context, client *http.Client, url, part string, major int, w io.Writer) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	status := http.StatusOK
	if part != "" {
		status = http.StatusPartialContent
		request.Header.Set("Range", part)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(w, response.Body)
	if response.StatusCode != status || response.ProtoMajor != major {
		return n, fmt.Errorf("%s: %s over HTTP/%d, want %d over HTTP/%d", url, response.Status, response.ProtoMajor, status, major)
	}
	return n, err
}

// getText returns what is at an address of a server of one's own.
func getText(ctx context.Context, url string) (string, error) {
	var b bytes.Buffer
	_, err := get(ctx, http.DefaultClient, url, "", 1, &b)
	return b.String(), err
}

// fetch reads the whole body of a case and leaves the connection open.
func fetch(ctx context.Context, client *http.Client, s *server, c Case) error {
	n, err := get(ctx, client, s.url(c), "", c.major(), io.Discard)
	if err == nil && n != c.Size {
		err = fmt.Errorf("%s: %d bytes, want %d", s.url(c), n, c.Size)
	}
	return err
}

// wholeSize is up to which size, in bytes, bodies are compared as a whole; of
// larger ones three parts are, as emulation needs a minute for a GiB.
const wholeSize = 64 << 20

// verify fetches the body of a case and compares it with what the site has.
func verify(ctx context.Context, s *server, site site, c Case, roots *x509.CertPool) error {
	client := newClient(c.Protocol, roots)
	defer client.CloseIdleConnections()
	f, err := os.Open(site.file(c.Size))
	if err != nil {
		return err
	}
	defer f.Close()
	compare := func(offset, length int64, part string) error {
		got, want := sha256.New(), sha256.New()
		n, err := get(ctx, client, s.url(c), part, c.major(), got)
		if err != nil {
			return err
		}
		if _, err := io.Copy(want, io.NewSectionReader(f, offset, length)); err != nil {
			return err
		}
		if n != length || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			return fmt.Errorf("%s: %d bytes with the SHA-256 %x, want %d with %x", s.url(c), n, got.Sum(nil), length, want.Sum(nil))
		}
		return nil
	}
	if c.Size <= wholeSize {
		return compare(0, c.Size, "")
	}
	const length = 1 << 20
	for _, offset := range []int64{0, c.Size / 2, c.Size - length} {
		if err := compare(offset, length, fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)); err != nil {
			return err
		}
	}
	return nil
}

// readWhole is up to which size, in bytes, a probe reads the body. After the
// first byte of a larger one it cancels the request, which closes the connection
// over HTTP/1.1.
const readWhole = 1 << 20

// firstBytes requests the body of a case again and again on a connection of its
// own until ctx ends, and returns the times from each request to the first byte of
// the response, in milliseconds, and how many bytes of bodies it has read.
func firstBytes(ctx context.Context, s *server, c Case, roots *x509.CertPool) (times []float64, bytes int64) {
	client := newClient(c.Protocol, roots)
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		t, n, err := firstByte(ctx, client, s, c)
		bytes += n
		if err != nil {
			continue // ctx has ended, most likely; without any time the run fails
		}
		times = append(times, float64(t.Nanoseconds())/1e6)
	}
	return times, bytes
}

func firstByte(ctx context.Context, client *http.Client, s *server, c Case) (t time.Duration, n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent, first time.Time
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { sent = time.Now() },
		GotFirstResponseByte: func() { first = time.Now() },
	}), http.MethodGet, s.url(c), nil)
	if err != nil {
		return 0, 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	if c.Size > readWhole {
		cancel()
	} else if n, err = io.Copy(io.Discard, response.Body); err != nil {
		return 0, n, err
	}
	return first.Sub(sent), n, nil
}

// percentile returns the smallest of values that at least the given part of them
// (0 to 1) does not exceed.
func percentile(values []float64, part float64) float64 {
	i := int(math.Ceil(part*float64(len(values)))) - 1
	return slices.Sorted(slices.Values(values))[max(i, 0)]
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
)

// wholeSize is up to which size, in bytes, bodies are compared as a whole; of
// larger ones three parts are, as emulation needs a minute for a GiB.
const wholeSize = 64 << 20

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

// verify fetches the body of a case and compares it with what the site has.
func verify(ctx context.Context, s *server, site site, c Case, roots *x509.CertPool) error {
	client, size := newClient(c.Protocol, roots), c.Size
	defer client.CloseIdleConnections()
	f, err := os.Open(site.file(size))
	if err != nil {
		return err
	}
	defer f.Close()
	if size <= wholeSize {
		return verifyPart(ctx, client, s.url(c), c.Protocol, f, 0, size, false)
	}
	const part = 1 << 20
	for _, offset := range []int64{0, size / 2, size - part} {
		if err := verifyPart(ctx, client, s.url(c), c.Protocol, f, offset, part, true); err != nil {
			return err
		}
	}
	return nil
}

func verifyPart(ctx context.Context, client *http.Client, url, protocol string, f io.ReaderAt, offset, length int64, isRange bool) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	status, major := http.StatusOK, map[string]int{http1: 1, http2: 2}[protocol]
	if isRange {
		status = http.StatusPartialContent
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != status || response.ProtoMajor != major {
		return fmt.Errorf("%s: %s over HTTP/%d, want %d over HTTP/%d", url, response.Status, response.ProtoMajor, status, major)
	}
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, response.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if _, err := io.Copy(want, io.NewSectionReader(f, offset, length)); err != nil {
		return err
	}
	if n != length || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%s: %d bytes with the SHA-256 %x, want %d with %x", url, n, got.Sum(nil), length, want.Sum(nil))
	}
	return nil
}

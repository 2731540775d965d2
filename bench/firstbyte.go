package main

import (
	"context"
	"crypto/x509"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"
)

// readWhole is up to which size, in bytes, a probe reads the body. After the
// first byte of a larger one it cancels the request, which closes the connection
// over HTTP/1.1.
const readWhole = 1 << 20

// firstBytes requests a file again and again on a connection of its own until
// ctx ends, and returns the times from each request to the first byte of the
// response, in milliseconds, and how many bytes of bodies it has read.
func firstBytes(ctx context.Context, protocol, url string, size int64, roots *x509.CertPool) (times []float64, bytes int64) {
	client := newClient(protocol, roots)
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		t, n, err := firstByte(ctx, client, url, size)
		bytes += n
		if err != nil {
			continue // ctx has ended, most likely; without any time the run fails
		}
		times = append(times, float64(t.Nanoseconds())/1e6)
	}
	return times, bytes
}

func firstByte(ctx context.Context, client *http.Client, url string, size int64) (t time.Duration, n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sent, first time.Time
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { sent = time.Now() },
		GotFirstResponseByte: func() { first = time.Now() },
	}), http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	if size > readWhole {
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

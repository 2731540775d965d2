package fileserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A client whose body is too large gets the answer before it has sent all, without
// idle timeouts, where it would with stock Caddy.
func TestTooLarge(t *testing.T) {
	off := `"read_idle_timeout": -1, "write_idle_timeout": -1,`
	for _, stock := range []bool{true, false} {
		t.Run(fmt.Sprintf("stock %v", stock), func(t *testing.T) {
			url := withCaddy(t, off, func(w http.ResponseWriter, r *http.Request) error {
				if !stock {
					w, _ = Wrap(w, r, &Options{MinSize: DefaultMinSize})
				}
				_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1000))
				var tooLarge *http.MaxBytesError
				if !errors.As(err, &tooLarge) {
					t.Errorf("error %v", err)
				}
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return nil
			})
			conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", url[len("http://"):])
			testutil.Must(t, err)
			defer conn.Close()
			testutil.Must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%2000d\r\n", 0)
			testutil.Must(t, err)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			testutil.Must(t, err)
			if response.StatusCode != http.StatusRequestEntityTooLarge || !response.Close {
				t.Errorf("%s, closes: %v", response.Status, response.Close)
			}
		})
	}
}

// What a small file takes of memory over HTTP/2 behind Caddy's own writers, below ours
// and above: less than the buffer of io.Copy. Go's client and server count too, since
// they run meanwhile.
func TestMemoryOfSmallFiles(t *testing.T) {
	const requests = 101
	name, body := randomFile(t, 2000)
	for _, accessLog := range []bool{false, true} {
		t.Run(fmt.Sprintf("access log %v", accessLog), func(t *testing.T) {
			settings := ""
			if accessLog {
				settings = `"logs": {},`
			}
			allocated := make(chan uint64, requests)
			url := withCaddy(t, settings, func(w http.ResponseWriter, r *http.Request) error {
				w, _ = Wrap(w, r, &Options{MinSize: DefaultMinSize})
				_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
				below := idle.ResponseWriter.(*writer).ResponseWriter
				if name := typeName(below); name != caddyPackage+".readDeadlineWriter" || bottomOf(below) == nil {
					t.Errorf("%s below", name)
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				http.ServeFile(w, r, name)
				runtime.ReadMemStats(&after)
				allocated <- after.TotalAlloc - before.TotalAlloc
				return nil
			})
			client := chainClient(t, true)
			var all []uint64
			for range requests {
				response, err := client.Get(url)
				testutil.Must(t, err)
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || !bytes.Equal(got, body) || response.ProtoMajor != 2 {
					t.Fatalf("%d bytes, %v, %s", len(got), err, response.Proto)
				}
				all = append(all, <-allocated)
			}
			// A collection, and the race detector, take buffers out of pools now
			// and then. That does not move the median.
			slices.Sort(all)
			if median := all[len(all)/2]; median > 16<<10 {
				t.Errorf("%d bytes are allocated for a response", median)
			}
		})
	}
}

// Nor does a file that is read directly, whose WriteTo would bring a buffer of its own.
func TestMemoryOfPlainFile(t *testing.T) {
	const copies = 101
	name, body := randomFile(t, 2000)
	f, err := os.Open(name)
	testutil.Must(t, err)
	defer f.Close()
	var all []uint64
	for range copies {
		var below standInWriter
		w := &newResponse(&below, &http.Request{ProtoMajor: 2}, nil, &Options{MinSize: DefaultMinSize}).writer
		_, err = f.Seek(0, io.SeekStart)
		testutil.Must(t, err)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err := w.ReadFrom(f)
		runtime.ReadMemStats(&after)
		if err != nil || n != int64(len(body)) || int(below) != len(body) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		all = append(all, after.TotalAlloc-before.TotalAlloc)
	}
	slices.Sort(all)
	if median := all[len(all)/2]; median > 16<<10 {
		t.Errorf("%d bytes are allocated for a copy", median)
	}
}

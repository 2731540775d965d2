package fileserver

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A deadlineSpy is a server's writer that is told of deadlines.
type deadlineSpy struct {
	http.ResponseWriter
	told chan time.Time
}

func (d deadlineSpy) SetWriteDeadline(t time.Time) error {
	d.told <- t
	return nil
}

// The server has the deadline before the stream is taken over and after the handler has
// returned; between these it has none, and is told when it has passed.
func TestWriteDeadline(t *testing.T) {
	never, one, other, past := time.Time{}, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour), time.Unix(1, 0)
	set := func(deadline time.Time) func(*Response) {
		return func(r *Response) { _ = r.writer.SetWriteDeadline(deadline) }
	}
	own, done := func(r *Response) { r.writer.http2.deadline.take() }, (*Response).Done
	for _, tt := range []struct {
		name  string
		calls []func(*Response)
		told  []time.Time
	}{
		{"not taken over", []func(*Response){set(one), set(never), done, set(other)}, []time.Time{one, never, other}},
		{"taken over", []func(*Response){set(one), own, set(other), set(never), set(one)}, []time.Time{one, never}},
		{"done", []func(*Response){set(one), own, set(other), done, set(one), done}, []time.Time{one, never, other, one}},
		{"done without one", []func(*Response){set(one), own, set(never), done}, []time.Time{one, never}},
		{"one from before", []func(*Response){own, set(other), set(one), done}, []time.Time{never, one}},
		{"taken over after all", []func(*Response){done, set(one), own, set(other)}, []time.Time{one, other}},
		{"passed", []func(*Response){own, set(past), wait, done, set(one)}, []time.Time{never, past, one}},
		{"passed before it is taken over", []func(*Response){set(past), own, wait, done}, []time.Time{past, never, past}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spy := deadlineSpy{told: make(chan time.Time, 10)}
			response := newResponse(spy, &http.Request{ProtoMajor: 2}, nil, new(Options))
			for _, call := range tt.calls {
				call(response)
			}
			close(spy.told)
			var told []time.Time
			for deadline := range spy.told {
				told = append(told, deadline)
			}
			if !slices.Equal(told, tt.told) {
				t.Errorf("the server is told %v\nwant %v", told, tt.told)
			}
		})
	}
}

// wait waits until the deadline has passed.
func wait(r *Response) {
	for d := &r.writer.http2.deadline; ; {
		d.mu.Lock()
		past := d.past
		d.mu.Unlock()
		if past {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A client that makes progress is never cut, one that stalls is: a part waits
// for its own bytes only, although much more goes ahead with it.
func TestIdleTimeout(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 8<<20)
	serve := func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.CopyN(w, f, int64(len(body)))
	}
	t.Run("slow", func(t *testing.T) {
		s := newSite(t, 0, 3*time.Second, serve)
		response, err := s.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		hash := sha256.New()
		// Slower than the whole transfer may take with one deadline.
		for {
			_, err := io.CopyN(hash, response.Body, 512<<10)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		if want := sha256.Sum256(body); !bytes.Equal(hash.Sum(nil), want[:]) {
			t.Error("the body differs")
		}
		if s.sent.Load() < int64(len(body))/2 {
			t.Errorf("sendfile sent %d", s.sent.Load())
		}
	})
	t.Run("stalled", func(t *testing.T) {
		s := newSite(t, 0, time.Second, serve)
		response, err := s.Get(s.url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		select {
		case err := <-s.failed:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the connection is not cut")
		}
		if n, err := io.Copy(io.Discard, response.Body); err == nil {
			t.Errorf("the client got %d bytes without an error", n)
		}
	})
}

// A deadline resets the stream of a client that grants nothing more, and no other. It
// has passed only when it is not set again.
func TestHTTP2Deadline(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	name, body := randomFile(t, 16<<20) // more than the client grants
	ended := make(chan error, 10)
	s, _ := newHTTP2Site(t, func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(name)
		testutil.Must(t, err)
		defer f.Close()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		control := http.NewResponseController(w)
		testutil.Must(t, control.SetWriteDeadline(time.Now().Add(time.Hour)))
		_, err = io.CopyN(w, f, 1<<20)
		testutil.Must(t, err)
		testutil.Must(t, control.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		testutil.Must(t, control.SetWriteDeadline(time.Time{}))
		time.Sleep(10 * time.Millisecond)
		_, err = io.CopyN(w, f, 1<<20)
		testutil.Must(t, err)
		if r.URL.Path == "/stalled" {
			testutil.Must(t, control.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		}
		_, err = io.Copy(w, f)
		ended <- err
	})
	defer s.CloseIdleConnections()
	stalled, err := s.Get(s.url + "/stalled")
	testutil.Must(t, err)
	defer stalled.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the handler of a stalled stream is told of no error")
	}
	if got, err := io.ReadAll(stalled.Body); err == nil || !bytes.HasPrefix(body, got) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	<-s.handled
	_, got, err := s.get(t)
	if err := cmp.Or(err, <-ended); err != nil || !bytes.Equal(got, body) {
		t.Errorf("then %d bytes, %v", len(got), err)
	}
}

//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// closedAgain waits until the descriptors are as many as they were.
func (c *caddy) closedAgain(t testing.TB, descriptors int) {
	t.Helper()
	eventually(t, "descriptors are closed", func() error {
		if n := c.descriptors(t); n > descriptors {
			return fmt.Errorf("%d, before %d", n, descriptors)
		}
		return nil
	})
}

// goroutines returns how many Caddy has.
func (c *caddy) goroutines(t testing.TB) (n int) {
	t.Helper()
	text := c.admin(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
	if _, err := fmt.Sscanf(string(text), "goroutine profile: total %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Streams are reset at any moment, while frames wait to be written, handlers return
// and descriptors are used again: what comes on a stream is its own file's.
func TestHTTP2RandomResets(t *testing.T) {
	requireKernelTLS(t)
	for name, test := range map[string]struct {
		site    string
		windows h2Windows
	}{
		"windows of 40000":            {h2Site, h2Windows{40_000, 16384, 20_011, 1 << 20}},
		"frames that wait":            {h2Site, h2Windows{3001, 16384, 2999, 1 << 20}},
		"frames that wait and encode": {strings.Replace(h2Site, "file_server", "encode gzip\n\tfile_server", 1), h2Windows{3001, 16384, 2999, 1 << 20}},
	} {
		t.Run(name, func(t *testing.T) { testRandomResets(t, test.site, test.windows) })
	}
}

func testRandomResets(t *testing.T, site string, windows h2Windows) {
	c := newCaddy(t)
	var files []file
	for i := range 16 {
		files = append(files, c.addFile(t, fmt.Sprintf("%d.bin", i), int64(100_000+i*13_007)))
	}
	c.start(t, site)
	descriptors, before := c.descriptors(t), c.metrics(t)
	random := rand.New(rand.NewPCG(1, 2))
	h := c.openHTTP2(t, windows)
	type asked struct {
		response *h2Response
		file     file
		canceled bool
	}
	var all []asked
	for range 120 {
		i := random.IntN(len(files))
		response := h.request(http.MethodGet, fmt.Sprintf("/%d.bin", i), "accept-encoding", "gzip")
		a := asked{response, files[i], true}
		switch random.IntN(4) {
		case 0: // at once
			h.cancel(a.response)
		case 1:
			h.begun(a.response, 1+random.IntN(int(a.file.size)))
			h.cancel(a.response)
		case 2: // one that was asked for before
			a.canceled = false
			if len(all) > 0 {
				old := &all[random.IntN(len(all))]
				old.canceled = true
				h.cancel(old.response)
			}
		default:
			a.canceled = false
		}
		all = append(all, a)
	}
	var sent int64
	for _, a := range all {
		if !a.canceled {
			h.wantFile(a.response, a.file)
		}
		sent += h.wantPrefix(a.response, a.file)
	}
	h.wantFile(h.get("/0.bin"), files[0])
	for _, a := range all {
		h.wantPrefix(a.response, a.file)
	}
	h.close()
	// The first bytes of a file don't come from the kernel behind encode.
	n := c.metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]
	if least := sent - int64(len(all))*notByKernel; n < least {
		t.Errorf("%d bytes have gone out by sendfile, of %d that were received", n, sent)
	}
	c.closedAgain(t, descriptors)
}

// Requests that are taken back at once harm no other stream, and their
// descriptors are closed while the connection lasts.
func TestHTTP2RapidResets(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f, other := c.addFile(t, "f.bin", large), c.addFile(t, "other.bin", 2<<20)
	c.start(t, h2Site)
	h := c.openHTTP2(t, h2Windows{50_000, 16384, 50_000, 1 << 20})
	h.wantFile(h.get("/f.bin"), f)
	descriptors := c.descriptors(t)
	bystanders := []*h2Response{h.get("/other.bin"), h.get("/other.bin")}
	for range 200 {
		s := h.get("/f.bin")
		h.cancel(s)
		defer h.wantPrefix(s, f)
	}
	for _, s := range bystanders {
		h.wantFile(s, other)
	}
	h.wantFile(h.get("/f.bin"), f)
	c.closedAgain(t, descriptors)
	h.wantFile(h.get("/f.bin"), f)
}

// A connection outlasts any number of resets.
func TestHTTP2ManyResets(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", large)
	// On a slow machine the bystander waits for longer than a stalled client may.
	c.start(t, `
{
	servers {
		listener_wrappers {
			ktls {
				offload all
			}
		}
		timeouts {
			write_idle 10m
		}
	}
}`+h2Site)
	h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 1 << 20})
	bystander := h.get("/f.bin")
	h.begun(bystander, 10_000)
	for i := range 1200 {
		ended := h.get("/protocol")
		h.wait("a response", func() bool { return ended.ended })
		h.cancel(ended)
		h.cancel(h.get("/protocol"))
		if i%4 == 0 {
			begun := h.get("/f.bin")
			h.begun(begun, 10_000)
			h.cancel(begun)
			h.send(func(*http2.Framer) error { h.grant(nil, 10_000); return nil })
		}
	}
	h.widen()
	h.wantFile(bystander, f)
	h.wantFile(h.get("/f.bin"), f)
	h.close()
}

// A client that goes away leaves nothing behind.
func TestHTTP2Leaving(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", huge)
	c.start(t, h2Site)
	descriptors, goroutines := c.descriptors(t), c.goroutines(t)
	leave := map[string]func(h *h2Conn){
		"RST":          func(h *h2Conn) { _ = h.conn.NetConn().(*net.TCPConn).SetLinger(0); _ = h.conn.NetConn().Close() },
		"FIN":          func(h *h2Conn) { _ = h.conn.NetConn().Close() },
		"close_notify": func(h *h2Conn) { _ = h.conn.Close() },
	}
	for name, leave := range leave {
		t.Run(name, func(t *testing.T) {
			before := c.metrics(t)
			h := c.openHTTP2(t, wide)
			var streams []*h2Response
			for range 6 {
				streams = append(streams, h.get("/f.bin"))
			}
			for _, s := range streams {
				h.begun(s, 50_000)
			}
			leave(h)
			<-h.done
			for _, s := range streams {
				h.wantPrefix(s, f)
			}
			c.closedAgain(t, descriptors)
			eventually(t, "goroutines end", func() error {
				if n := c.goroutines(t); n > goroutines {
					return fmt.Errorf("%d, before %d", n, goroutines)
				}
				return nil
			})
			if n := c.metrics(t)["responses:sendfile"] - before["responses:sendfile"]; n != 6 {
				t.Errorf("%d responses by sendfile, want 6", n)
			}
		})
	}
}

// Frames that are no requests come between them, and GOAWAY at last, after which
// the server completes what it has begun.
func TestHTTP2OtherFrames(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", 1<<20)
	c.start(t, h2Site)
	before := c.metrics(t)
	h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 1 << 20})
	first := h.request(http.MethodGet, "/f.bin", "priority", "u=1, i")
	second := h.begin(http2.PriorityParam{StreamDep: first.id, Weight: 7, Exclusive: true}, true, h.fields(http.MethodGet, "/f.bin")...)
	for i := range 20 {
		h.send(func(f *http2.Framer) error {
			_ = f.WritePriority(second.id, http2.PriorityParam{Weight: uint8(i)})
			_ = f.WriteRawFrame(0xbe, 0, 0, []byte("unknown"))
			h.grant(first, int64(10*i+1))
			return f.WritePing(false, [8]byte{byte(i)})
		})
	}
	h.wait("PING is answered while the windows are used up", func() bool {
		return h.pings == 20 && first.window == 0 && second.window == 0
	})
	h.send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
	h.widen()
	for range 5 {
		h.send(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}
	h.wantFile(first, f)
	h.wantFile(second, f)
	<-h.done
	if h.readingErr != io.EOF || h.goAway == nil || h.goAway.ErrCode != http2.ErrCodeNo {
		t.Errorf("the end was %v, %v", h.readingErr, h.goAway)
	}
	c.expect(t, before, sent(f, f))
}

// Caddy lets downloads finish when it is asked to end, and says GOAWAY.
func TestHTTP2GracefulStop(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", 2<<20)
	c.start(t, h2Site)
	h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 1 << 20})
	var streams []*h2Response
	for range 4 {
		streams = append(streams, h.get("/f.bin"))
	}
	for _, s := range streams {
		h.begun(s, 10_000)
	}
	must(t, c.cmd.Process.Signal(os.Interrupt))
	h.wait("GOAWAY", func() bool { return h.goAway != nil })
	h.widen()
	for _, s := range streams {
		h.wantFile(s, f)
	}
	<-h.done
	if h.readingErr != io.EOF {
		t.Errorf("the end was %v", h.readingErr)
	}
	select {
	case <-c.exited:
	case <-time.After(patience):
		t.Error("Caddy does not end")
	}
	fault(t, "Server life", "SIGINT during downloads on one connection", "HTTP/2, within the grace period", "GOAWAY, whole, then it ends")
}

// A file that loses bytes that were promised ends its own stream, by a reset.
func TestHTTP2ShorterFile(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	other := c.addFile(t, "other.bin", large)
	c.start(t, h2Site)
	for _, remains := range []int64{0, 10_000, 12_000, 40_000} {
		t.Run(fmt.Sprint(remains), func(t *testing.T) {
			f := c.addFile(t, "f.bin", 1<<20)
			descriptors := c.descriptors(t)
			h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 32 << 10})
			shrinking := []*h2Response{h.get("/f.bin"), h.get("/f.bin")}
			others := []*h2Response{h.get("/other.bin"), h.get("/other.bin")}
			for _, s := range append(shrinking, others...) {
				h.begun(s, 10_000)
			}
			must(t, os.Truncate(filepath.Join(c.root, "f.bin"), remains))
			h.widen()
			for _, s := range others {
				h.wantFile(s, other)
			}
			for _, s := range shrinking {
				h.wait("the stream is reset", func() bool { return s.reset || s.ended })
				if !s.reset {
					t.Error("the stream has ended as if it were whole")
				}
				h.wantPrefix(s, f)
			}
			// What the server has counted against the windows is
			// given back: the default is used up many times.
			for range 3 {
				h.wantFile(h.get("/other.bin"), other)
			}
			h.close()
			c.closedAgain(t, descriptors)
		})
	}
	fault(t, "Files", "A file is truncated", "during its download over HTTP/2, to several lengths",
		"its stream is reset; the other streams of the connection go on")
}

// A file that is replaced or deleted is sent whole as it was opened; of one that
// grows, what was promised.
func TestHTTP2ChangedFile(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	replaced, deleted := c.addFile(t, "replaced.bin", 1<<20), c.addFile(t, "deleted.bin", 1<<20)
	grown, after := c.addFile(t, "grown.bin", 1<<20), c.addFile(t, "after", large)
	c.start(t, h2Site)
	before := c.metrics(t)
	h := c.openHTTP2(t, h2Windows{10_000, 16384, 0, 32 << 10})
	one, two, three := h.get("/replaced.bin"), h.get("/deleted.bin"), h.get("/grown.bin")
	for _, s := range []*h2Response{one, two, three} {
		h.begun(s, 10_000)
	}
	must(t, os.Rename(filepath.Join(c.root, "after"), filepath.Join(c.root, "replaced.bin")))
	must(t, os.Remove(filepath.Join(c.root, "deleted.bin")))
	must(t, os.Truncate(filepath.Join(c.root, "grown.bin"), 3<<20))
	must(t, os.Chmod(filepath.Join(c.root, "grown.bin"), 0))
	h.widen()
	h.wantFile(one, replaced)
	h.wantFile(two, deleted)
	h.wantFile(three, grown)
	h.wantFile(h.get("/replaced.bin"), after)
	h.close()
	c.expect(t, before, sent(replaced, deleted, grown, after))
	fault(t, "Files", "A file is replaced by renaming, deleted, or grown and made unreadable", "during its download over HTTP/2",
		"whole, as it was opened")
}

// Whatever other handlers do on their streams, files come whole on theirs.
func TestHTTP2Handlers(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f, text := c.addFile(t, "f.bin", large), c.addText(t, "f.txt", large)
	page, failure := c.addText(t, "page.html", large), c.addText(t, "error.html", large)
	// A server that breaks off its answers, and one that reads what is posted.
	mux := http.NewServeMux()
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		_, _ = w.Write(f.content[:100_000])
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/reads", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	upstream := c.upstream(t, mux)
	c.start(t, `
https://localhost:{$PORT} {
	ktls {
		offload all
	}
	root {$ROOT}
	encode gzip
	templates /page.html
	@proxied path /broken /reads
	reverse_proxy @proxied 127.0.0.1:{$PORT3}
	file_server
	handle_errors 404 {
		rewrite /error.html
		file_server
	}
}`)
	descriptors, before := c.descriptors(t), c.metrics(t)
	h := c.openHTTP2(t, h2Windows{30_000, 16384, 30_001, 32 << 10})
	want := counts{"connections:offloaded": 1}
	const rounds = 5
	for range rounds {
		files := []*h2Response{h.get("/f.bin"), h.get("/f.txt")}
		packed := h.request(http.MethodGet, "/f.txt", "accept-encoding", "gzip")
		files = append(files, h.request(http.MethodGet, "/f.bin", "accept-encoding", "gzip"))
		broken := h.get("/broken")
		upload := h.begin(http2.PriorityParam{}, false, h.fields(http.MethodPost, "/reads")...)
		h.send(func(f *http2.Framer) error { return f.WriteData(upload.id, false, text.content[:10_000]) })
		h.cancel(upload)
		templated, missing := h.get("/page.html"), h.get("/missing")
		h.wantFile(files[0], f)
		h.wantFile(files[1], text)
		h.wantFile(files[2], f)
		h.wantFile(templated, page)
		h.wantBody(missing, http.StatusNotFound, failure.digest)
		h.wait("the upstream's answer breaks off", func() bool { return broken.reset || broken.ended })
		if !broken.reset {
			t.Error("a broken answer has ended as if it were whole")
		}
		h.wait("the packed file", func() bool { return packed.ended || packed.reset })
		unpacked := newDigester()
		if r, err := gzip.NewReader(bytes.NewReader(packed.body)); err != nil {
			t.Error(err)
		} else if _, err := io.Copy(unpacked, r); err != nil || unpacked.digest() != text.digest {
			t.Errorf("unpacked: %v, %v, want %v", unpacked.digest(), err, text.digest)
		}
		want["responses:sendfile"] += 3
		want["sendfile_bytes"] += 2*f.size + text.size
	}
	h.close()
	c.expect(t, before, want)
	_ = upstream.Close() // and with it connections that Caddy keeps for other requests
	c.closedAgain(t, descriptors)
}

// The connection moves when the first large file comes: small ones before it are
// copied, and several large ones at once move it once.
func TestHTTP2FirstFiles(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	small := c.addFile(t, "small", 1000)
	var files []file
	for i := range 4 {
		files = append(files, c.addFile(t, fmt.Sprint("f", i), large+int64(i)*10_007))
	}
	c.start(t, site)
	for name, first := range map[string]bool{"small first": true, "large at once": false} {
		t.Run(name, func(t *testing.T) {
			for range 4 {
				before := c.metrics(t)
				h := c.openHTTP2(t, wide)
				if first {
					h.wantFile(h.get("/small"), small)
				}
				want := counts{"connections:offloaded": 1, "responses:sendfile": int64(len(files)), "sendfile_bytes": anyNumber}
				var streams []*h2Response
				least := int64(0)
				for i, f := range files {
					streams = append(streams, h.get(fmt.Sprint("/f", i)))
					least += f.size - notByKernel - 8<<10 // to move the connection
				}
				for i, s := range streams {
					h.wantFile(s, files[i])
				}
				h.close()
				c.expect(t, before, want)
				if n := c.metrics(t)["sendfile_bytes"] - before["sendfile_bytes"]; n < least {
					t.Errorf("%d bytes have gone out by sendfile, want %d", n, least)
				}
			}
		})
	}
}

// Both versions of HTTP share the port at the same time.
func TestHTTP2BesideHTTP1(t *testing.T) {
	requireKernelTLS(t)
	const clients, rounds = 3, 3
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", 1<<20)
	c.start(t, h2Site)
	before := c.metrics(t)
	var all sync.WaitGroup
	for i := range 2 * clients {
		client, major := c.client(t, nil), 1
		if i%2 == 1 {
			client, major = c.http2Client(t), 2
		}
		all.Go(func() {
			defer client.CloseIdleConnections()
			for range rounds {
				resp, err := try(t, client, http.MethodGet, c.url("/f.bin"))
				if err != nil {
					t.Error(err)
					return
				}
				wantBody(t, resp, http.StatusOK, f.digest)
				if resp.ProtoMajor != major {
					t.Errorf("protocol %s, want version %d", resp.Proto, major)
				}
			}
		})
	}
	all.Wait()
	c.expect(t, before, counts{
		"connections:offloaded": 2 * clients, "responses:sendfile": 2 * clients * rounds, "sendfile_bytes": 2 * clients * rounds * f.size,
	})
}

func TestHTTP2Curl(t *testing.T) {
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", 3<<20)
	c.start(t, h2Site)
	before := c.metrics(t)
	if got, want := c.curl(t, "--http2", c.url("/protocol")), digestOf([]byte("HTTP/2.0")); got != want {
		t.Errorf("the protocol has %v, want %v", got, want)
	}
	if got := c.curl(t, "--http2", c.url("/f.bin")); got != f.digest {
		t.Errorf("body has %v, want %v", got, f.digest)
	}
	want := sentByKernel(f.size)
	want["connections:offloaded"]++
	// curl 8.14 says goodbye with GOAWAY and close_notify, and may have gone when the
	// server answers that.
	want["connections_lost"] = anyNumber
	c.expect(t, before, want)
}

func TestHTTP2Load(t *testing.T) {
	requireKernelTLS(t)
	requireProgram(t, "h2load")
	const clients, requests = 3, 60
	c := newCaddy(t)
	f := c.addFile(t, "f.bin", large)
	c.start(t, h2Site)
	before := c.metrics(t)
	text, err := exec.CommandContext(t.Context(), "h2load", "--clients", fmt.Sprint(clients), "--requests", fmt.Sprint(requests),
		"--max-concurrent-streams", "10", "--connect-to", "127.0.0.1:"+c.port, c.url("/f.bin")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	report := bufio.NewScanner(bytes.NewReader(text))
	succeeded := fmt.Sprintf("%d succeeded, 0 failed, 0 errored, 0 timeout", requests)
	data := fmt.Sprintf("(%d) data", requests*f.size)
	for report.Scan() {
		line := report.Text()
		if strings.HasPrefix(line, "requests:") && !strings.Contains(line, succeeded) ||
			strings.HasPrefix(line, "traffic:") && !strings.Contains(line, data) {
			t.Error(line)
		}
	}
	c.expect(t, before, counts{
		"connections:offloaded": clients, "responses:sendfile": requests, "sendfile_bytes": requests * f.size,
	})
}

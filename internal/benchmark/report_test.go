package benchmark

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// turns returns a round: both sides send a GiB, in so many seconds of CPU time and of the
// clock.
func turns(stockCPU, ktlsCPU, stockTime, ktlsTime float64) (stock, ktls turn) {
	one := func(cpu, clock float64) turn {
		seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
		return turn{
			used: usage{User: seconds(cpu / 4), Kernel: seconds(cpu * 3 / 4), Calls: 2048},
			got:  download{Bytes: gibi, Responses: 4, Time: seconds(clock), FirstBytes: []time.Duration{1e6, 2e6, 3e6, 40e6}, TLS: "TLS 1.3 with A"},
		}
	}
	return one(stockCPU, stockTime), one(ktlsCPU, ktlsTime)
}

func TestVerdict(t *testing.T) {
	better := [][4]float64{{1, .6, 2, 2}, {1, .7, 2, 1}, {1, .9, 2, 3}, {2, 1.4, 2, 2}, {1, .75, 2, 2}}
	slower := [][4]float64{{1, .6, 1, 2}, {1, .7, 1, 2}, {1, .9, 1, 2}, {2, 1.4, 1, 2}, {1, .75, 1, 2}}
	either := [][4]float64{{1, .6, 2, 2}, {1, .7, 2, 1}, {1, 1.1, 2, 3}, {2, 1.4, 2, 2}, {1, .75, 2, 2}}
	barely := [][4]float64{{1, .999, 2, 2}, {1, .999, 2, 1}, {1, .98, 2, 3}, {1, .995, 2, 2}, {1, .999, 2, 2}}
	lost := [][4]float64{{1, .6, 1, 2}, {1, 1.1, 1, 2}, {1, 1, 1, 2}, {1, 1, 1, 2}, {1, 1, 1, 2}}
	worse := [][4]float64{{1, 1.2, 2, 2}, {1, 1.3, 2, 1}, {1, 1.1, 2, 3}, {2, 2.2, 2, 2}, {1, 1.01, 2, 2}}
	for _, tt := range []struct {
		http1, http2 [][4]float64
		want         string
	}{
		{better, better, "pays here: 30 % less CPU time over HTTP/2, 30 % less CPU time over HTTP/1.1"},
		{slower, better, "pays here: 30 % less CPU time over HTTP/2, 30 % less CPU time over HTTP/1.1 (with 50 % less throughput)"},
		{either, better, "pays here: 30 % less CPU time over HTTP/2; makes no difference here (within the spread) over HTTP/1.1"},
		{either, either, "makes no difference here (within the spread)"},
		{barely, barely, "makes no difference here (within the spread)"},
		{lost, either, "makes no difference here (within the spread) over HTTP/2 and over HTTP/1.1 (with 50 % less throughput)"},
		{worse, worse, "does not pay here: leave it out"},
		{worse, nil, "does not pay here: leave it out"},
		{worse, better, "pays here: 30 % less CPU time over HTTP/2; does not pay here over HTTP/1.1"},
		{worse, either, "makes no difference here (within the spread) over HTTP/2; does not pay here over HTTP/1.1"},
		{better, better[:4], "pays here: 30 % less CPU time over HTTP/1.1; too few rounds for a verdict over HTTP/2"},
		{better[:1], nil, "too few rounds for a verdict"},
		{nil, nil, "too few rounds for a verdict"},
	} {
		r := newReport(&options{})
		for _, p := range []struct {
			name   string
			rounds [][4]float64
		}{{http1, tt.http1}, {http2, tt.http2}} {
			if p.rounds == nil {
				continue
			}
			report := r.protocol(p.name)
			for _, x := range p.rounds {
				report.add(turns(x[0], x[1], x[2], x[3]))
			}
		}
		if r.judge(); r.Verdict != tt.want {
			t.Errorf("%q, want %q", r.Verdict, tt.want)
		}
	}
}

func TestForms(t *testing.T) {
	r := newReport(&options{size: 64 << 20, connections: 8})
	r.Machine = machine{CPU: "A Processor", CPUs: 4, AES: []string{"aes", "vaes"}, Kernel: "6.12.1", Arch: "amd64", Caddy: "v2.11.9", Go: "go1.26.8", Module: "v0.1.0", Date: "2026-01-02"}
	r.TLS = "TLS 1.3 with A"
	p := r.protocol(http1)
	for _, x := range [][2]float64{{1, .5}, {2, 1.5}, {2, .5}} {
		p.add(turns(x[0], x[1], 4, 2))
	}
	r.judge()
	const what = `a file of 64 MiB, 8 connections, TLS 1.3 with A
`
	const where = `A Processor, 4 processors (amd64), features: aes vaes; Linux 6.12.1; Caddy v2.11.9, go1.26.8, ktls v0.1.0; 2026-01-02
`
	text := what + where + `
HTTP/1.1, 3 of 5 rounds           stock                   ktls                    ktls to stock
CPU time of the server, s/GiB     2.00 (1.00 to 2.00)     0.500 (0.500 to 1.50)   ×0.500 (0.250 to 0.750)
CPU time in user space, s/GiB     0.500 (0.250 to 0.500)  0.125 (0.125 to 0.375)  ×0.500 (0.250 to 0.750)
CPU time in the kernel, s/GiB     1.50 (0.750 to 1.50)    0.375 (0.375 to 1.12)   ×0.500 (0.250 to 0.750)
throughput, MiB/s                 256 (256 to 256)        512 (512 to 512)        ×2.00 (2.00 to 2.00)
reads, writes and sends, per MiB  2.00 (2.00 to 2.00)     2.00 (2.00 to 2.00)     ×1.00 (1.00 to 1.00)
first byte, median, ms            2.00 (2.00 to 2.00)     2.00 (2.00 to 2.00)     ×1.00 (1.00 to 1.00)
first byte, 99th percentile, ms   40.0 (40.0 to 40.0)     40.0 (40.0 to 40.0)     ×1.00 (1.00 to 1.00)

` + notes + "\n\ntoo few rounds for a verdict\n"
	markdown := "**caddy ktls bench: too few rounds for a verdict**\n\n" + what + "\n" + where + `
| HTTP/1.1, 3 of 5 rounds | stock | ktls | ktls to stock |
|---|---|---|---|
| CPU time of the server, s/GiB | 2.00 (1.00 to 2.00) | 0.500 (0.500 to 1.50) | ×0.500 (0.250 to 0.750) |
`
	var b strings.Builder
	testutil.Must(t, r.writeText(&b))
	if b.String() != text {
		t.Errorf("text:\n%swant:\n%s", b.String(), text)
	}
	b.Reset()
	testutil.Must(t, r.writeMarkdown(&b))
	if !strings.HasPrefix(b.String(), markdown) || !strings.HasSuffix(b.String(), "\n"+notes+"\n") {
		t.Errorf("Markdown:\n%s", b.String())
	}
	b.Reset()
	testutil.Must(t, r.writeJSON(&b))
	var again report
	testutil.Must(t, json.Unmarshal([]byte(b.String()), &again))
	if got, want := again.Protocols[0].Rows[0].Ratio, (spread{.5, .25, .75}); got != want || again.Verdict != r.Verdict {
		t.Errorf("JSON:\n%s", b.String())
	}
}

// A value that is zero, as the shortest times are where the kernel counts in ticks, harms
// no form. Calls that are not counted have no line.
func TestZeros(t *testing.T) {
	r := newReport(&options{})
	p := r.protocol(http1)
	for range rounds {
		stock, ktls := turns(1, 1, 1, 1)
		stock.used.User, ktls.used.User, stock.used.Calls, ktls.used.Calls = 0, time.Second, 0, 0
		p.add(stock, ktls)
	}
	r.judge()
	var text, object strings.Builder
	testutil.Must(t, r.writeText(&text))
	testutil.Must(t, r.writeJSON(&object))
	if s := text.String(); strings.Contains(s, "Inf") || strings.Contains(s, "NaN") || strings.Contains(s, "sends") || !strings.Contains(s, "user space") {
		t.Error(s)
	}
}

// What a user gets wrong is named, with what to do.
func TestOptions(t *testing.T) {
	small := testutil.TempFile(t, []byte("small"))
	large := testutil.TempFile(t, testutil.Body(200_000))
	good := options{time: time.Second, connections: 1}
	for _, tt := range []struct {
		change       func(*options)
		size, cipher string
		want         string // the beginning of the error
	}{
		{nil, "64MiB", "default", ""},
		{nil, "128KiB", "AES256", ""},
		{func(o *options) { o.file = large }, "64MiB", "default", ""},
		{nil, "127KiB", "default", `--size must be at least 128KiB, for example 64MiB, and not "127KiB"`},
		{nil, "much", "default", `--size must be at least 128KiB, for example 64MiB, and not "much"`},
		{nil, "10EB", "default", "--size is too large"},
		{func(o *options) { o.file = small }, "64MiB", "default", "--file: " + small + " has 5 bytes; it must have 128KiB at least"},
		{func(o *options) { o.file = t.TempDir() }, "64MiB", "default", "--file: "},
		{func(o *options) { o.file = small + "x" }, "64MiB", "default", "--file: open "},
		{func(o *options) { o.time = 0 }, "64MiB", "default", "--time must be between 1s and 1h: 0s"},
		{func(o *options) { o.connections = 0 }, "64MiB", "default", "--connections must be between 1 and 1000: 0"},
		{nil, "64MiB", "rot13", `--cipher must be default, aes128, aes256 or chacha20: "rot13"`},
	} {
		o := good
		if tt.change != nil {
			tt.change(&o)
		}
		err := o.set(tt.size, tt.cipher)
		if got := errorText(err); (tt.want == "") != (err == nil) || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%q, want %q", got, tt.want)
		}
		if err == nil && (o.size < 128<<10 || o.cipher.name == "") {
			t.Errorf("%+v", o)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A measurement in which the kernel did not do the work is none.
func TestWantWork(t *testing.T) {
	got := download{Bytes: 1 << 20, Responses: 2}
	for _, tt := range []struct {
		side string
		used usage
		ok   bool
	}{
		{moved, usage{Sendfile: 1<<20 - 5000, Offloaded: 4, InKernel: 4}, true},
		{moved, usage{Sendfile: 1<<20 - 5000, Offloaded: 4, InKernel: -1}, true},
		{moved, usage{Sendfile: 1<<20 - 70_000, Offloaded: 4, InKernel: 4}, false},
		{moved, usage{Sendfile: 1<<20 - 5000, Offloaded: 3, InKernel: 4}, false},
		{moved, usage{Sendfile: 1<<20 - 5000, Offloaded: 4, InKernel: 3}, false},
		{stock, usage{InKernel: 4}, true},
		{stock, usage{Sendfile: 1}, false},
		{stock, usage{Offloaded: 1}, false},
	} {
		if err := tt.used.wantWork(tt.side, got, 4); (err == nil) != tt.ok {
			t.Errorf("%s, %+v: %v", tt.side, tt.used, err)
		}
	}
}

package main

import (
	"maps"
	"strings"
	"testing"
	"time"
)

const h2loadOutput = `starting benchmark...
spawning thread #0: 16 total client(s). 64 total requests
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2
progress: 10% done

finished in 827.99ms, 77.30 req/s, 77.35MB/s
requests: 64 total, 64 started, 64 done, 63 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 63 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 64.05MB (67159166) total, 1.95KB (1998) headers (space savings 82.36%), 64.00MB (67108864) data
                     min         max         mean         sd        +/- sd
time for request:    66.29ms    347.29ms    172.29ms     38.65ms    82.81%
`

func TestParseH2load(t *testing.T) {
	got, err := parseH2load(h2loadOutput)
	want := loadResult{63, 67108864, 827990 * time.Microsecond, "TLS_AES_128_GCM_SHA256", "h2"}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := parseH2load("h2load: command not understood\n"); err == nil {
		t.Error("no error for something else")
	}
}

// A run that isn't what it is to be has to fail.
func TestVerifyLoad(t *testing.T) {
	good := loadResult{64, 64 << 20, time.Second, "TLS_AES_128_GCM_SHA256", "h2"}
	l := load{Case: Case{Protocol: http2, Cipher: "aes128", Size: 1 << 20, Server: ktls}, requests: 64}
	if err := l.verify(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*loadResult){
		"fewer requests": func(r *loadResult) { r.succeeded-- },
		"fewer bytes":    func(r *loadResult) { r.bytes-- },
		"other cipher":   func(r *loadResult) { r.cipher = "TLS_AES_256_GCM_SHA384" },
		"no TLS":         func(r *loadResult) { r.cipher = "" },
		"other protocol": func(r *loadResult) { r.protocol = "http/1.1" },
	} {
		r := good
		change(&r)
		if l.verify(r) == nil {
			t.Errorf("%s: no error", name)
		}
	}
	l.Server = plain
	if err := l.verify(loadResult{succeeded: 64, bytes: 64 << 20}); err != nil {
		t.Errorf("without TLS: %v", err)
	}
}

func TestParseStrace(t *testing.T) {
	calls, copied, err := parseStrace(strings.NewReader(`101 read(7, ""..., 32768) = 32768
102 epoll_pwait(4,  <unfinished ...>
101 write(8, ""..., 16406) = 16406
102 <... epoll_pwait resumed>[{events=EPOLLIN, data=0x7f}], 128, 0, NULL, 0) = 1
101 sendfile(8, 7, [0] => [65536], 65536) = 65536
101 read(7, 0xc000, 100) = -1 EAGAIN (Resource temporarily unavailable)
101 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0) = 0x7f0000000000
102 write(8,  <unfinished ...>
102 <... write resumed>""..., 100)  = 100
102 +++ exited with 0 +++
101 exit_group(0) = ?
`))
	want := map[string]int64{"read": 2, "write": 2, "sendfile": 1, "epoll_pwait": 1, "mmap": 1, "exit_group": 1}
	if err != nil || copied != 32768+16406+100 || !maps.Equal(calls, want) {
		t.Errorf("%d bytes, %v, %v; want %v", copied, calls, err, want)
	}
}

func TestProcNumber(t *testing.T) {
	const stat = "TlsCurrTxSw                     \t2\nTlsTxSw                         \t25\nTlsRxSw                         \t0\n"
	const status = "VmHWM:\t  900 kB\nVmRSS:\t  123 kB\n"
	for _, test := range []struct {
		name, text string
		want       int64
	}{{"TlsTxSw", stat, 25}, {"VmRSS", status, 123}} {
		if n, err := procNumber(test.text, test.name); n != test.want || err != nil {
			t.Errorf("%s: %d, %v", test.name, n, err)
		}
	}
	for name, text := range map[string]string{"TlsTx": stat, "VmRSS": "VmHWM:\t  900 kB\n"} {
		if n, err := procNumber(text, name); err == nil {
			t.Errorf("%s: %d, which is not there", name, n)
		}
	}
}

func TestParseMetric(t *testing.T) {
	const text = `# HELP a_total help
a_total{reason="x y",server="srv0"} 1.5e+03
a_total{reason="z",server="srv0"} 7
a_total_b 100
heap 12 1700000000000
`
	for name, want := range map[string]float64{"a_total": 1507, "heap": 12} {
		if sum, found := parseMetric(text, name); sum != want || !found {
			t.Errorf("%s: %v, %v, want %v", name, sum, found, want)
		}
	}
	if _, found := parseMetric(text, "a"); found {
		t.Error("found what is not there")
	}
}

func TestParseStat(t *testing.T) {
	pid, parent, ok := parseStat("12 (a (b) c) S 7 12 12 0 -1\n")
	if pid != 12 || parent != 7 || !ok {
		t.Error(pid, parent, ok)
	}
	if _, _, ok := parseStat("12 a S 7"); ok {
		t.Error("read something else")
	}
}

func TestParseCPU(t *testing.T) {
	model, flags := parseCPU("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 aes\n\nprocessor\t: 1\n")
	if model != "Some CPU" || strings.Join(flags, " ") != "aes avx2" {
		t.Error(model, flags)
	}
}

func TestParseSnapshot(t *testing.T) {
	s, err := parseSnapshot("10 5 20 30 40 off\n")
	if s != (snapshot{10, 5, 20}) || err != nil {
		t.Error(s, err)
	}
	if _, err := parseSnapshot("10 twenty\n"); err == nil {
		t.Error("no error for something else")
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"512B": 512, "1KiB": 1 << 10, "64KiB": 64 << 10, "1MiB": 1 << 20, "1GiB": 1 << 30} {
		if n, err := parseSize(text); n != want || err != nil {
			t.Errorf("%s: %d, %v", text, n, err)
		}
		if s := formatSize(want); s != text {
			t.Errorf("%d is written %s", want, s)
		}
	}
	for _, text := range []string{"", "0", "-1KiB", "1kB", "x", "9999999GiB"} {
		if n, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}

// The counters have to show what a case says.
func TestWitness(t *testing.T) {
	const large, small = 1 << 20, 1 << 10
	for _, test := range []struct {
		name        string
		server      string
		workload    string
		size        int64
		connections int64
		sendfile    float64
		ok          bool
	}{
		{"ktls, large body", ktls, transfer, large, 2, 2 * large, true},
		{"ktls, large body that was copied", ktls, transfer, large, 2, large, false},
		{"ktls, large body, one connection not moved", ktls, transfer, large, 1, 2 * large, false},
		{"ktls, small body", ktls, transfer, small, 0, 0, true},
		{"ktls, small body, moved", ktls, transfer, small, 1, 0, false},
		{"ktls, small body by sendfile", ktls, transfer, small, 0, small, false},
		{"ktls, proxied", ktls, proxy, large, 0, 0, true},
		{"ktls, proxied, moved", ktls, proxy, large, 1, 0, false},
		{"ktls-all, proxied", ktlsAll, proxy, large, 2, 0, true},
		{"ktls-all, proxied, not moved", ktlsAll, proxyMemory, large, 1, 0, false},
		{"ktls-all, proxied by sendfile", ktlsAll, proxyMemory, large, 2, 2 * large, false},
		{"ktls-all, small body", ktlsAll, connect, small, 2, 0, true},
		{"ktls-all, clients that have closed", ktlsAll, connect, small, 1, 0, true},
		{"ktls-all, small body, none moved", ktlsAll, connect, small, 0, 0, false},
		{"stock", stock, transfer, large, 0, 0, true},
		{"stock, moved", stock, transfer, large, 1, 0, false},
		{"nginx-ktls", nginxKTLS, transfer, small, 2, 0, true},
		{"nginx-ktls, not moved", nginxKTLS, transfer, small, 0, 0, false},
	} {
		before := witness{Connections: 10, Sendfile: 100}
		now := witness{Connections: 10 + test.connections, Sendfile: 100 + test.sendfile}
		err := before.compare(now, Case{Server: test.server, Workload: test.workload, Size: test.size}, 2, 2*test.size)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestParseSocketMemory(t *testing.T) {
	const output = `0      309902 127.0.0.1:46369 127.0.0.1:60302 skmem:(r896,rb131072,t0,tb446976,f3186,w352270,o0,bl0,d0)
0      0      127.0.0.1:46369 127.0.0.1:60282 skmem:(r0,rb131072,t0,tb46080,f4,w10,o0,bl0,d0)
`
	if sum, err := parseSocketMemory(output); err != nil || sum != 896+3186+352270+4+10 {
		t.Errorf("%.0f, %v", sum, err)
	}
	if _, err := parseSocketMemory(""); err == nil {
		t.Error("no error for nothing")
	}
}

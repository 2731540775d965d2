package doctor

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// allCiphers are those of Linux from 5.11 on.
func allCiphers(change func(*cipherFacts)) (ciphers []cipherFacts) {
	for _, version := range []string{"1.3", "1.2"} {
		for _, name := range []string{"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"} {
			c := cipherFacts{TLS: version, Cipher: name, Works: true, SendFile: true, Rekey: version == "1.3"}
			change(&c)
			ciphers = append(ciphers, c)
		}
	}
	return ciphers
}

func TestReport(t *testing.T) {
	good := func() facts {
		return facts{
			OS:              "linux",
			Kernel:          kernelFacts{Release: "6.18.44", Version: "6.18.44"},
			Go:              goFacts{Version: "go1.26.8"},
			Module:          moduleFacts{State: moduleLoaded, AtBoot: true},
			Ciphers:         allCiphers(func(*cipherFacts) {}),
			FileDescriptors: 1048576,
		}
	}
	none := func(f *facts, state string) {
		f.Module = moduleFacts{State: state}
		f.Ciphers = allCiphers(func(c *cipherFacts) {
			*c = cipherFacts{TLS: c.TLS, Cipher: c.Cipher, Error: "the error"}
		})
	}
	const works, notLoaded = "kernel TLS works here", "no kernel TLS: the module tls is not loaded"
	tests := []struct {
		name    string
		change  func(*facts)
		verdict string
		want    []string // lines, in this order
		not     string   // what no line has
	}{
		{
			name: "all is well", change: func(*facts) {}, verdict: works, not: "->",
			want: []string{
				"kernel      ok    6.18.44",
				"module tls  ok    loaded, and at every boot",
				"TLS 1.3     ok    AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305",
				"TLS 1.2     ok    AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305",
				"sendfile    ok    works",
				"rekey       ok    works",
				"http        ok    Go and Caddy in this build do what sendfile needs",
				"files       ok    at most 1048576 file descriptors",
				"network     note  no interface has TLS offload on: the CPU encrypts",
			},
		},
		{
			name: "not at boot", change: func(f *facts) { f.Module.AtBoot = false }, verdict: works,
			want: []string{
				"module tls  warn  loaded, but not at boot",
				"                  -> at boot: echo tls | sudo tee /etc/modules-load.d/tls.conf",
			},
		},
		{
			name: "loaded by the check", change: func(f *facts) { f.Module.LoadedByCheck = true }, verdict: works,
			want: []string{"module tls  ok    loaded just now, by this check, and at every boot"},
		},
		{
			name: "not loaded", change: func(f *facts) { none(f, moduleNotLoaded) }, verdict: notLoaded, not: "ciphers",
			want: []string{
				"module tls  FAIL  not loaded",
				"                  -> sudo modprobe tls",
				"                  -> at boot: echo tls | sudo tee /etc/modules-load.d/tls.conf",
				"                  -> then have Caddy look again: sudo systemctl reload caddy, or caddy reload --force",
				"files       ok    at most 1048576 file descriptors",
			},
		},
		{
			name: "container", change: func(f *facts) { none(f, moduleNotLoaded); f.Container = "podman" }, verdict: notLoaded,
			want: []string{
				"container   note  podman: the kernel is the host's, and its modules are loaded on the host",
				"                  -> on the host: sudo modprobe tls",
			},
		},
		{
			name:    "container of a good host",
			change:  func(f *facts) { f.Container, f.Module.AtBoot = "docker", false },
			verdict: works, not: "boot", want: []string{"module tls  ok    loaded"},
		},
		{
			name: "not installed", change: func(f *facts) { none(f, moduleNotInstalled) },
			verdict: "no kernel TLS: this kernel has no module tls", want: []string{"module tls  FAIL  this kernel has none"},
		},
		{
			name: "modules gone", change: func(f *facts) { none(f, moduleGone) },
			verdict: "no kernel TLS: the module tls is not loaded, and the running kernel's modules are gone, as after an update",
			want:    []string{"                  -> reboot; then: sudo modprobe tls"},
		},
		{
			name: "built in but useless", change: func(f *facts) { none(f, moduleBuiltIn) },
			verdict: "no kernel TLS: no connection could be offloaded",
			want:    []string{"module tls  ok    part of the kernel", "ciphers     FAIL  the error"},
		},
		{
			name: "could not be tried",
			change: func(f *facts) {
				none(f, moduleNotLoaded)
				for i := range f.Ciphers {
					f.Ciphers[i].broken = true
				}
			},
			verdict: "no kernel TLS: no connection could be offloaded", want: []string{"ciphers     FAIL  the error"},
		},
		{
			name: "lying sandbox",
			change: func(f *facts) {
				none(f, moduleNotLoaded)
				f.Ciphers[0].inert = true
			},
			verdict: "no kernel TLS: the kernel, or a sandbox around this program, takes keys and encrypts nothing", not: "modprobe",
			want: []string{
				"ciphers     FAIL  the kernel takes keys and encrypts nothing, as a sandbox such as gVisor does",
				"                  -> run Caddy outside of the sandbox, or without this module: inside, connections stay in user space",
			},
		},
		{
			name: "old kernel",
			change: func(f *facts) {
				f.Kernel = kernelFacts{Release: "5.4.0-200-generic"}
				f.Ciphers = allCiphers(func(c *cipherFacts) {
					c.Rekey = false
					c.Works = c.Cipher != "ChaCha20-Poly1305"
				})
			},
			verdict: works,
			want: []string{
				"kernel      warn  5.4.0-200-generic: the distribution's own number, which does not tell which faults are fixed; keep the kernel up to date",
				"                  -> a maintained kernel from 6.6 on is recommended: kernel TLS has had security bugs in older ones",
				"TLS 1.3     ok    AES-128-GCM, AES-256-GCM",
				"ciphers     note  not in this kernel: TLS 1.3 with ChaCha20-Poly1305, TLS 1.2 with ChaCha20-Poly1305; such connections stay in user space",
				"rekey       note  no: a client that asks for a new key (rare) gets its response, then the connection is closed; from Linux 6.14 on it works",
			},
		},
		{
			name: "FIPS mode", verdict: works, not: "->",
			change: func(f *facts) {
				f.Kernel.FIPS, f.Go.FIPS = true, true
				f.Ciphers = allCiphers(func(c *cipherFacts) { c.Works = c.Cipher != chaCha })
			},
			want: []string{
				"kernel      note  in FIPS mode: without ChaCha20-Poly1305; such connections stay in user space",
				"Go          note  in FIPS mode: without ChaCha20-Poly1305",
			},
		},
		{
			name: "FIPS mode without a module", verdict: works,
			change: func(f *facts) {
				f.Kernel.FIPS = true
				f.Ciphers = allCiphers(func(c *cipherFacts) { c.Works = c.Cipher == "AES-128-GCM" })
			},
			want: []string{
				"ciphers     note  not in this kernel: TLS 1.3 with AES-256-GCM, TLS 1.2 with AES-256-GCM; such connections stay in user space",
			},
		},
		{
			name: "no TLS 1.3", verdict: works,
			change: func(f *facts) { f.Ciphers = allCiphers(func(c *cipherFacts) { c.Works = c.TLS == "1.2" }) },
			want:   []string{"TLS 1.3     warn  none; such connections stay in user space"},
		},
		{
			name: "faults of the kernel", verdict: works,
			change: func(f *facts) {
				f.Kernel = kernelFacts{Release: "6.6.0-1-amd64", Version: "6.6.140", Faults: kernelFaultsOf(version{6, 6, 140})}
			},
			want: []string{
				"kernel      warn  6.6.0-1-amd64 (6.6.140) has known faults in kernel TLS, unless the distribution has fixed them",
				"                  -> CVE-2026-23240: use after free when a connection is closed while it sends, https://osv.dev/vulnerability/CVE-2026-23240",
				"                  -> install the newest kernel that the distribution has",
			},
		},
		{
			name: "old Go", verdict: works,
			change: func(f *facts) { f.Go = builtBy("go1.26.5") },
			want: []string{
				"Go          warn  go1.26.5, which built this, has known faults in TLS",
				"                  -> CVE-2026-56862: a client can keep the server busy with endless KeyUpdates; fixed in Go 1.26.6, https://golang.org/issue/80528",
				"                  -> build with the newest Go",
			},
		},
		{
			name: "wrong data",
			change: func(f *facts) {
				f.Ciphers[2].Works, f.Ciphers[2].broken, f.Ciphers[2].Error = false, true, "other data"
			},
			verdict: "kernel TLS is faulty here: don't use it",
			want:    []string{"ciphers     FAIL  TLS 1.3 with ChaCha20-Poly1305: other data"},
		},
		{
			name: "no sendfile", verdict: works,
			change: func(f *facts) { f.Ciphers = allCiphers(func(c *cipherFacts) { c.SendFile = false }) },
			want:   []string{"sendfile    warn  does not work on the file system of this program; files on such a file system are copied"},
		},
		{
			name: "few descriptors", change: func(f *facts) { f.FileDescriptors = 1024 }, verdict: works,
			want: []string{
				"files       warn  at most 1024 file descriptors: a download takes 2",
				"                  -> raise the limit: LimitNOFILE=1048576 in a systemd unit, ulimit -n 1048576 as root in a shell",
			},
		},
		{
			name: "network card", change: func(f *facts) { f.Interfaces = []string{"eth0", "eth1"} }, verdict: works,
			want: []string{"network     note  eth0, eth1: TLS offload is on, the network card may encrypt; this module has not been tested with that"},
		},
		{
			name: "another Go or Caddy", verdict: works,
			change: func(f *facts) {
				f.HTTP = []HTTPFault{{"HTTP/2", "no stream", true}, {"HTTP/1.1", "parts are parts", false}}
			},
			want: []string{
				"http        warn  files over HTTP/2 are copied: no stream",
				"                  -> " + TakeNewer,
				"http        warn  files over HTTP/1.1 take more work: parts are parts",
			},
		},
		{
			name: "other system", change: func(f *facts) { *f = facts{OS: "plan9"} }, not: "ok",
			verdict: "no kernel TLS: it is a feature of Linux, and this is plan9",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := good()
			test.change(&f)
			r := newReport(f)
			if wantWorks := test.verdict == works; r.Works != wantWorks || r.Verdict != test.verdict {
				t.Errorf("works %v, verdict %q, want %v, %q", r.Works, r.Verdict, wantWorks, test.verdict)
			}
			wantText(t, r, test.verdict, test.want, test.not)
			wantJSON(t, r, f)
		})
	}
}

// wantText checks that the text ends with the verdict, has all lines of want in their
// order, and has not what is in not.
func wantText(t *testing.T, r *report, verdict string, want []string, not string) {
	t.Helper()
	var b strings.Builder
	if err := r.writeText(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if !strings.HasSuffix("\n"+text, "\nverdict: "+verdict+"\n") {
		t.Errorf("the last line is not the verdict:\n%s", text)
	}
	if not != "" && strings.Contains(text, not) {
		t.Errorf("%q in\n%s", not, text)
	}
	rest := text
	for _, line := range want {
		var found bool
		if _, rest, found = strings.Cut(rest, line+"\n"); !found {
			t.Errorf("no line %q, or not in order:\n%s", line, text)
		}
	}
}

// wantJSON checks that the JSON says the same as the report, and has the facts.
func wantJSON(t *testing.T, r *report, f facts) {
	t.Helper()
	var b strings.Builder
	if err := r.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	var decoded struct {
		Works   bool
		Verdict string
		Go      struct{ Version string }
		Ciphers []struct{ TLS, Cipher string }
		HTTP    []HTTPFault
		Lines   []line
	}
	if err := json.Unmarshal([]byte(b.String()), &decoded); err != nil {
		t.Fatal(err)
	}
	if decoded.Works != r.Works || decoded.Verdict != r.Verdict || len(decoded.Ciphers) != len(f.Ciphers) ||
		decoded.Go.Version != f.Go.Version ||
		len(decoded.Lines) != len(r.Lines) || !slices.Equal(decoded.HTTP, f.HTTP) {
		t.Errorf("JSON differs from the text:\n%s", b.String())
	}
}

package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A benched is where `caddy ktls bench` runs, with a temporary folder of its own.
type benched struct {
	*harness.Caddy
	temp string
}

func newBenched(t *testing.T) benched {
	t.Helper()
	temp, err := filepath.EvalSymlinks(t.TempDir())
	testutil.Must(t, err)
	b := benched{harness.NewCaddy(t), temp}
	b.Env = append(b.Env, "TMPDIR="+temp)
	return b
}

// parts returns the processes that work in the temporary folder.
func (b benched) parts(t *testing.T) (parts []*os.Process) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cwd")
	testutil.Must(t, err)
	for _, name := range names {
		if folder, err := os.Readlink(name); err == nil && strings.HasPrefix(folder, b.temp+"/") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			testutil.Must(t, err)
			part, err := os.FindProcess(pid)
			testutil.Must(t, err)
			parts = append(parts, part)
		}
	}
	return parts
}

// wantNothingLeft fails the test if a process or a file is left.
func (b benched) wantNothingLeft(t *testing.T) {
	t.Helper()
	if parts := b.parts(t); len(parts) > 0 {
		t.Errorf("%d processes are left", len(parts))
	}
	for _, dir := range []string{b.temp, filepath.Join(b.Dir, "caddy")} {
		if names, _ := filepath.Glob(dir + "/*"); len(names) > 0 {
			t.Errorf("files are left: %v", names)
		}
	}
}

// start starts the command, for long, and waits until it measures.
func (b benched) start(t *testing.T) (p *harness.Process, log harness.Log) {
	t.Helper()
	self, err := os.Executable()
	testutil.Must(t, err)
	cmd := exec.Command(self, "ktls", "bench", "--time", "1h", "--size", "1MiB")
	cmd.Env, cmd.Dir = b.Env, b.Dir
	log = harness.Log(filepath.Join(t.TempDir(), "log"))
	p = harness.StartProcess(t, cmd, string(log), nil)
	testutil.Eventually(t, "both servers have certificates", func() error {
		select {
		case <-p.Exited:
			t.Fatalf("it has ended:\n%s", log.Tail())
		default:
		}
		names, err := filepath.Glob(filepath.Join(b.temp, "*", "storage-*", "certificates", "local", "localhost", "localhost.crt"))
		if len(names) != 2 {
			return fmt.Errorf("they have %v, %w", names, err)
		}
		return nil
	})
	return p, log
}

// A benchReport is what `caddy ktls bench --json` prints.
type benchReport struct {
	Machine struct {
		CPU    string   `json:"cpu"`
		CPUs   int      `json:"cpus"`
		AES    []string `json:"aes"`
		Kernel string   `json:"kernel"`
		Arch   string   `json:"arch"`
		Caddy  string   `json:"caddy"`
		Go     string   `json:"go"`
		Module string   `json:"module"`
		Date   string   `json:"date"`
	} `json:"machine"`
	Size        int64  `json:"size"`
	OwnFile     bool   `json:"own_file"`
	Connections int    `json:"connections"`
	TLS         string `json:"tls"`
	Protocols   []struct {
		Protocol string `json:"protocol"`
		Rounds   int    `json:"rounds"`
		Rows     []struct {
			Name  string      `json:"name"`
			Unit  string      `json:"unit"`
			Stock benchSpread `json:"stock"`
			KTLS  benchSpread `json:"ktls"`
			Ratio benchSpread `json:"ratio"`
		} `json:"rows"`
	} `json:"protocols"`
	Verdict string `json:"verdict"`
}

type benchSpread struct{ Median, Least, Most float64 }

func (s benchSpread) ok(some bool) bool {
	return 0 <= s.Least && (s.Least > 0 || !some) && s.Least <= s.Median && s.Median <= s.Most
}

// `caddy ktls bench` measures both protocols, by the kernel, and leaves nothing behind.
// Its figures mean nothing here, but its form does.
func TestBench(t *testing.T) {
	harness.RequireKernelTLS(t)
	b := newBenched(t)
	before := harness.TLSStat(t, "TlsTxSw")
	out, complaint, code := b.Command(t, "ktls", "bench", "--json", "--size", "300KiB", "--time", "1s", "--connections", "2")
	if code != 0 || complaint != "" {
		t.Fatalf("exit code %d: %s", code, complaint)
	}
	t.Log(out)
	b.wantNothingLeft(t)
	if n := harness.TLSStat(t, "TlsTxSw") - before; n < 4 {
		t.Errorf("%d connections went into the kernel, want 4 at least", n)
	}
	var r benchReport
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	testutil.Must(t, decoder.Decode(&r))
	if r.Size != 300<<10 || r.OwnFile || r.Connections != 2 || !strings.HasPrefix(r.TLS, "TLS 1.3 with TLS_") || len(r.Protocols) != 2 || r.Verdict == "" {
		t.Errorf("%+v", r)
	}
	if m := r.Machine; m.CPUs == 0 || m.Kernel == "" || m.Caddy == "" || m.Go == "" || m.Module == "" || m.Date == "" {
		t.Errorf("%+v", m)
	}
	for i, name := range []string{"HTTP/1.1", "HTTP/2"} {
		p := r.Protocols[i]
		if p.Protocol != name || p.Rounds != 5 || len(p.Rows) != 7 {
			t.Fatalf("%+v", p)
		}
		for _, row := range p.Rows {
			// Kernels that count in ticks may find none.
			some := !strings.HasPrefix(row.Name, "CPU time in ")
			if !row.Stock.ok(some) || !row.KTLS.ok(some) || !row.Ratio.ok(some) {
				t.Errorf("%s: %+v", name, row)
			}
		}
	}
}

func TestBenchOwnFile(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	b := newBenched(t)
	own := b.Root.AddFile(t, "{a} file", 200_000)
	name := filepath.Join(string(b.Root), "{a} file")
	out, complaint, code := b.Command(t, "ktls", "bench", "--markdown", "--file", name, "--http2", "--cipher", "chacha20", "--time", "1s", "--connections", "1")
	if code != 0 || complaint != "" {
		t.Fatalf("exit code %d: %s", code, complaint)
	}
	t.Log(out)
	b.wantNothingLeft(t)
	for _, want := range []string{
		"**caddy ktls bench: ", "a file of the user's, 195 KiB, 1 connection, TLS 1.2 with TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\n",
		"| HTTP/2 | stock | ktls | ktls to stock |\n|---|---|---|---|\n| CPU time of the server, s/GiB | ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if strings.Contains(out, "HTTP/1.1") {
		t.Error("HTTP/1.1 was measured too")
	}
	testutil.SameBody(t, []byte(testutil.ReadFile(t, name)), own.Content)
}

// Ctrl-C prints what there is. It goes to all processes of a terminal, other signals to
// the command alone.
func TestBenchInterrupted(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			b := newBenched(t)
			p, log := b.start(t)
			if signal == syscall.SIGINT {
				for _, part := range b.parts(t) {
					testutil.Must(t, part.Signal(signal))
				}
			}
			p.Signal(t, signal)
			p.WaitExit(t)
			if text := log.Tail(); !strings.Contains(text, "\ntoo few rounds for a verdict\n") || strings.Contains(text, "has ended") {
				t.Errorf("it prints:\n%s", text)
			}
			if code := p.ExitCode(); code != 128+int(syscall.SIGINT) {
				t.Errorf("exit code %d", code)
			}
			b.wantNothingLeft(t)
		})
	}
}

// Parts that answer nothing any more do not hold up the end.
func TestBenchPartsHang(t *testing.T) {
	harness.OnKernel(t, "6.12")
	harness.RequireKernelTLS(t)
	b := newBenched(t)
	p, log := b.start(t)
	for _, part := range b.parts(t) {
		testutil.Must(t, part.Signal(syscall.SIGSTOP))
	}
	p.Signal(t, syscall.SIGTERM)
	p.WaitExit(t)
	if !strings.Contains(log.Tail(), "\ntoo few rounds for a verdict\n") {
		t.Errorf("it prints:\n%s", log.Tail())
	}
	b.wantNothingLeft(t)
}

// If the command is killed, its parts end.
func TestBenchKilled(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	b := newBenched(t)
	p, _ := b.start(t)
	if parts := b.parts(t); len(parts) != 3 {
		t.Fatalf("%d processes, want 3", len(parts))
	}
	p.Signal(t, os.Kill)
	p.WaitExit(t)
	testutil.Eventually(t, "the parts end", func() error {
		if parts := b.parts(t); len(parts) > 0 {
			return fmt.Errorf("%d have not", len(parts))
		}
		return nil
	})
}

// If a part dies, the command fails and says so.
func TestBenchPartDies(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	b := newBenched(t)
	p, log := b.start(t)
	testutil.Must(t, b.parts(t)[0].Kill()) // whichever it is
	p.WaitExit(t)
	if text := log.Tail(); p.ExitCode() != 1 || !strings.Contains(text, " has ended: ") && !strings.Contains(text, "downloading from the server ") {
		t.Errorf("exit code %d:\n%s", p.ExitCode(), text)
	}
	b.wantNothingLeft(t)
	results.Fault(t, "Server life", "A part of caddy ktls bench dies", "SIGKILL", "it fails and says so; no process and no file is left")
}

// Without kernel TLS the command says what `caddy ktls check` says.
func TestBenchWithoutKernelTLS(t *testing.T) {
	harness.RequireNoKernelTLS(t)
	b := newBenched(t)
	out, complaint, code := b.Command(t, "ktls", "bench")
	_, verdict, found := strings.Cut(complaint, "\nverdict: ")
	verdict, _, _ = strings.Cut(verdict, "\n")
	if code != 1 || out != "" || !found || !strings.HasSuffix(complaint, "nothing was measured: "+verdict+"\n") {
		t.Errorf("exit code %d: %s%s", code, out, complaint)
	}
	b.wantNothingLeft(t)
}

package integration_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A downloader gets a file into a folder by a program.
type downloader struct {
	*harness.Caddy
	file   harness.File // at /f
	folder string       // where the program puts it, as f
}

func newDownloader(t testing.TB, size int64) downloader {
	t.Helper()
	// aria2c does not name a host that has no dot.
	c, f := harness.StartWithFile(t, size, "{\n\tdefault_sni localhost\n}\n"+harness.FileSite)
	return downloader{c, f, t.TempDir()}
}

// got returns what is there so far.
func (d downloader) got() []byte {
	content, _ := os.ReadFile(filepath.Join(d.folder, "f"))
	return content
}

// run runs a program to its end.
func (d downloader) run(t testing.TB, program string, args ...string) {
	t.Helper()
	_, err := harness.RunProgram(t, program, args...)
	testutil.Must(t, err)
}

// wantWhole checks that the file is there.
func (d downloader) wantWhole(t testing.TB) {
	t.Helper()
	if got := harness.DigestOf(d.got()); got != d.file.Digest {
		t.Errorf("the file has %v, want %v", got, d.file.Digest)
	}
}

// wget is ended in the middle of a download, and resumes it. busybox has a wget too.
func TestWget(t *testing.T) {
	const wget = "/usr/bin/wget"
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, wget)
	d := newDownloader(t, harness.Huge)
	args := []string{"--no-verbose", "--no-proxy", "--tries=1", "--continue", "--ca-certificate", d.RootFile(), "--directory-prefix", d.folder, d.URL("/f")}
	cmd := exec.CommandContext(t.Context(), wget, append([]string{"--limit-rate=100k"}, args...)...)
	complaints, err := os.Create(filepath.Join(t.TempDir(), "complaints"))
	testutil.Must(t, err)
	defer complaints.Close()
	cmd.Stderr = complaints
	testutil.Must(t, cmd.Start())
	testutil.Eventually(t, "wget has received something", func() error {
		if len(d.got()) == 0 {
			return fmt.Errorf("it has not: %s", testutil.ReadFile(t, complaints.Name()))
		}
		return nil
	})
	testutil.Must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	begun := d.got()
	if len(begun) >= harness.Huge || !bytes.HasPrefix(d.file.Content, begun) {
		t.Fatalf("wget has received %d bytes: too many, or wrong ones", len(begun))
	}
	testutil.Eventually(t, "Caddy knows that wget has left", func() error {
		if n := d.Metrics(t)["responses_failed"]; n != 1 {
			return fmt.Errorf("%d responses have failed", n)
		}
		return nil
	})
	before := d.Metrics(t)
	d.run(t, wget, args...)
	d.wantWhole(t)
	d.Expect(t, before, harness.SentByKernel(d.file.Size-int64(len(begun))))
	results.Fault(t, "Clients", "wget", "killed in the middle of a download, and resumed with --continue", "whole; both parts by sendfile")
}

// aria2c gets a file over several connections at once. It ends responses as soon as it
// has what another connection has not.
func TestAria2(t *testing.T) {
	harness.OnKernel(t, "6.1")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "aria2c")
	d := newDownloader(t, 17<<20+12_345)
	before := d.Metrics(t)
	d.run(t, "aria2c", "--no-conf", "--quiet", "--async-dns=false", "--max-connection-per-server=16", "--split=16", "--min-split-size=1M",
		"--file-allocation=none", "--ca-certificate", d.RootFile(), "--dir", d.folder, "--out", "f", d.URL("/f"))
	d.wantWhole(t)
	// Of the first response it reads only a part, and who gets what is left to chance.
	const any = harness.AnyNumber
	d.Expect(t, before, harness.Counts{
		"connections:offloaded": any, "responses:sendfile": any, "sendfile_bytes": any, "responses_failed": any, "connections_lost": any,
		"connections:not_needed": any, // aria2c may open a connection that it does not use
		"connections:closing":    any,
	})
	now := d.Metrics(t)
	if n := now["connections:offloaded"] - before["connections:offloaded"]; n < 2 {
		t.Errorf("aria2c has used %d connections", n)
	}
	if n := now["sendfile_bytes"] - before["sendfile_bytes"]; n < d.file.Size-32*harness.NotByKernel {
		t.Errorf("the kernel has sent %d bytes", n)
	}
	results.Fault(t, "Clients", "aria2c", "16 connections, each with ranges of 1 MiB", "whole, by sendfile")
}

// curl gets the parts of a file at once, over connections of their own or as streams of
// one.
func TestCurlParallel(t *testing.T) {
	harness.OnKernel(t, "7.2")
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "curl")
	d := newDownloader(t, 3<<20+12_345)
	const parts = 6
	for _, protocol := range []string{"--http1.1", "--http2"} {
		t.Run(protocol, func(t *testing.T) {
			before := d.Metrics(t)
			args := []string{"--parallel"}
			for i := range int64(parts) {
				args = append(args, "--silent", "--show-error", "--fail", protocol, "--noproxy", "*", "--cacert", d.RootFile(), "--range",
					fmt.Sprintf("%d-%d", i*d.file.Size/parts, (i+1)*d.file.Size/parts-1), "--output", d.part(i), d.URL("/f"), "--next")
			}
			d.run(t, "curl", args[:len(args)-1]...)
			var all []byte
			for i := range int64(parts) {
				part, err := os.ReadFile(d.part(i))
				testutil.Must(t, err)
				all = append(all, part...)
			}
			testutil.SameBody(t, all, d.file.Content)
			connections := int64(parts)
			if protocol == "--http2" {
				connections = 1
			}
			want := harness.SentTimes(connections, parts, d.file.Size)
			want["connections_lost"] = harness.AnyNumber // see TestHTTP2Curl
			d.Expect(t, before, want)
		})
	}
	results.Fault(t, "Clients", "curl", "six ranges with --parallel, over connections of their own, and over one of HTTP/2", "right, by sendfile")
}

// part returns the name of the file of a part.
func (d downloader) part(i int64) string { return filepath.Join(d.folder, fmt.Sprint("part", i)) }

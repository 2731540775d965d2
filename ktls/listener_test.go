package ktls

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A listener waits for what its connections still have to send.
func TestListenerWait(t *testing.T) {
	var unsent atomic.Int64
	s := newFakeServer(t, serverConfig(), offloadAll, func(k *fakeKernel) {
		k.queued = func() (int, error) { return int(unsent.Load()), nil }
	})
	body := testutil.Body(200_000)
	name := testutil.OpenFile(t, body).Name()
	w := newWeb(t, s.Server, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) })
	w.serve(t, w.Serve)
	unsent.Store(70_000)
	_, got := w.get(t, webClient(t, clientConfig()))
	testutil.SameBody(t, got, body)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := w.Shutdown(ctx); err != nil {
		t.Error("Shutdown:", err)
	}
	soon, cancelSoon := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancelSoon()
	testutil.WantError(t, w.ln.Wait(soon), context.DeadlineExceeded)
	unsent.Store(0)
	if err := w.ln.Wait(ctx); err != nil {
		t.Error("Wait:", err)
	}
	s.wantNoneLost(t)
	s.wantFile(t, len(body), true)
}

// A process that exits after Shutdown and Wait has sent everything, though its
// client is slow.
func TestShutdownAndExit(t *testing.T) {
	const variable = "KTLS_TEST_SHUTDOWN"
	if name := os.Getenv(variable); name != "" {
		serveUntilEOF(t, name)
		os.Exit(0)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	body := testutil.Body(12_000_000)
	cmd := exec.Command(exe, "-test.run=^TestShutdownAndExit$")
	cmd.Env = append(os.Environ(), variable+"="+testutil.OpenFile(t, body).Name())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewReader(stdout)
	address, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}

	client := webClient(t, &tls.Config{InsecureSkipVerify: true}) // its certificate is its own
	response, err := client.Get("https://" + strings.TrimSpace(address) + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	stdin.Close()
	var got bytes.Buffer
	for err == nil {
		_, err = io.CopyN(&got, response.Body, 256<<10)
		time.Sleep(5 * time.Millisecond)
	}
	if err != io.EOF {
		t.Error("body:", err)
	}
	testutil.SameBody(t, got.Bytes(), body)
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error("server:", err)
	}
	want := Offloaded
	if support, _ := Probe(); !support.Any() {
		want = KernelUnsupported
	}
	if string(rest) != want.String() {
		t.Errorf("the server says %q, want %q", rest, want)
	}
}

// serveUntilEOF serves a file until there is no more standard input.
func serveUntilEOF(t *testing.T, name string) {
	inner := testutil.Listen(t)
	states := make(chan State, 1)
	ln := NewListener(inner, serverConfig(), &Options{Decided: func(_ *Conn, d Decision) { states <- d.State }})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	})}
	go func() { _ = server.Serve(ln) }()
	fmt.Println(inner.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Fatal("Shutdown:", err)
	}
	if err := ln.Wait(ctx); err != nil {
		t.Fatal("Wait:", err)
	}
	fmt.Print(<-states)
}

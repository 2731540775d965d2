package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A load is what h2load is to do.
type load struct {
	Case
	url      string
	requests int
	threads  int
}

// A loadResult is what h2load has found.
type loadResult struct {
	succeeded int
	bytes     int64 // of bodies
	duration  time.Duration
	cipher    string // TLS's name, empty without TLS
	protocol  string // as in ALPN, empty without TLS
}

func (l load) arguments() []string {
	a := []string{"-n", strconv.Itoa(l.requests), "-c", strconv.Itoa(l.Connections), "-t", strconv.Itoa(l.threads)}
	if l.Protocol == http1 {
		a = append(a, "--h1")
	}
	if l.outside() {
		// They are faster than an emulated machine can shake hands.
		a = append(a, "-r", "8")
	}
	if cipher := l.tlsCipher(); cipher != "" {
		a = append(a, "--tls13-ciphers="+cipherSuites[cipher])
	}
	return append(a, l.url)
}

// run has h2load do it, and fails if anything is not as it was asked for.
func (l load) run(ctx context.Context) (loadResult, error) {
	cmd := exec.CommandContext(ctx, "h2load", l.arguments()...)
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return loadResult{}, ctx.Err()
	}
	if err != nil {
		return loadResult{}, fmt.Errorf("h2load: %w\n%s", err, output)
	}
	r, err := parseH2load(string(output))
	if err == nil {
		err = l.verify(r)
	}
	if err != nil {
		err = fmt.Errorf("%w; h2load %s has said:\n%s", err, strings.Join(l.arguments(), " "), output)
	}
	return r, err
}

func (l load) verify(r loadResult) error {
	cipher, protocol := "", r.protocol // without TLS none is agreed on
	if l.tlsCipher() != "" {
		cipher, protocol = cipherSuites[l.Cipher], map[string]string{http1: "http/1.1", http2: "h2"}[l.Protocol]
	}
	switch want := int64(l.requests) * l.Size; {
	case r.succeeded != l.requests:
		return fmt.Errorf("%d of %d requests have succeeded", r.succeeded, l.requests)
	case r.bytes != want:
		return fmt.Errorf("the bodies have %d bytes, want %d", r.bytes, want)
	case r.cipher != cipher:
		return fmt.Errorf("the cipher is %q, want %q", r.cipher, cipher)
	case r.protocol != protocol:
		return fmt.Errorf("the protocol is %q, want %q", r.protocol, protocol)
	}
	return nil
}

var (
	h2loadFinished = regexp.MustCompile(`(?m)^finished in ([0-9.]+[a-zµ]+),`)
	h2loadRequests = regexp.MustCompile(`(?m)^requests: .* (\d+) succeeded,`)
	h2loadData     = regexp.MustCompile(`(?m)^traffic: .*\((\d+)\) data$`)
	h2loadCipher   = regexp.MustCompile(`(?m)^Cipher: (\S+)$`)
	h2loadProtocol = regexp.MustCompile(`(?m)^Application protocol: (\S+)$`)
)

// parseH2load reads the output of h2load 1.52 and later.
func parseH2load(output string) (loadResult, error) {
	var r loadResult
	find := func(re *regexp.Regexp) string {
		if m := re.FindStringSubmatch(output); m != nil {
			return m[1]
		}
		return ""
	}
	var err1, err2, err3 error
	r.duration, err1 = time.ParseDuration(find(h2loadFinished))
	r.succeeded, err2 = strconv.Atoi(find(h2loadRequests))
	r.bytes, err3 = strconv.ParseInt(find(h2loadData), 10, 64)
	r.cipher, r.protocol = find(h2loadCipher), find(h2loadProtocol)
	if err := errors.Join(err1, err2, err3); err != nil {
		return r, fmt.Errorf("h2load's output is not understood: %w", err)
	}
	return r, nil
}

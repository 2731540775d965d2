package benchmark

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Options select what is measured.
type options struct {
	size        int64  // of the file that is made, in bytes
	file        string // path of the user's file, or empty
	time        time.Duration
	connections int
	protocols   []string
	cipher      cipher
}

// A cipher is a value of the flag --cipher.
type cipher struct {
	name string
	// suite is the one of TLS 1.2 that the servers are limited to, by crypto/tls. Go
	// chooses the cipher of TLS 1.3 itself, so if suite is 0, it does.
	suite uint16
}

var ciphers = []cipher{
	{name: "default"},
	{"aes128", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	{"aes256", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	{"chacha20", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
}

// The protocols, as reports name them.
const (
	http1 = "HTTP/1.1"
	http2 = "HTTP/2"
)

// exitInterrupted is the exit code after Ctrl-C, as shells have it.
const exitInterrupted = 128 + int(syscall.SIGINT)

// Command returns the command `caddy ktls bench`. check writes what `caddy ktls check`
// says, and returns the verdict.
func Command(check func(io.Writer) (verdict string, err error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench [--file <path> | --size <size>] [--time <duration>] [--connections <n>] [--http1] [--http2] [--cipher <name>] [--json | --markdown]",
		Short: "Measures whether the directive ktls pays on this machine",
		Long: `
Measures whether the directive ktls pays on this machine: it serves a file by
this binary with the directive and without it, in turn, downloads it, and
compares. It needs no configuration, no privileges and no network but loopback,
and leaves nothing behind. It takes about 50 seconds, and longer on a slow
machine, because each measurement lasts until all its downloads have ended.

For each protocol it prints the CPU time that the server takes for a GiB, in
user space and in the kernel; the throughput; the system calls that read, write
or send, for a MiB; and the time to the first byte. Each number is the median of
five measurements, with the least and the greatest. The last column compares the
two measurements of each round. The last line is the verdict: it pays, if each
of the rounds took less CPU time with the directive than without, and most took
1 % less at least.

Every body is compared with the file, and the kernel's work is checked; if
something is wrong, the command fails and says so. The exit code is 1 then, and
where kernel TLS does not work. After Ctrl-C the command prints what there is,
and its exit code is 130. Otherwise it is 0.

The client shares the machine's processors with the server, and loopback has no
network card: throughput is that of both together.

--file takes a file of yours, which must not change meanwhile. The cipher is
what Go chooses for TLS 1.3; --cipher aes128, aes256 or chacha20 measures with
TLS 1.2. --markdown prints what may be pasted into an issue.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	size := flags.String("size", "64MiB", "Size of the file that is made, 128KiB or more")
	file := flags.String("file", "", "File to serve instead, 128KiB or more")
	duration := flags.Duration("time", 10*time.Second, "How long to measure each side, for each protocol")
	connections := flags.Int("connections", 8, "How many connections download at once")
	onlyHTTP1 := flags.Bool("http1", false, "Measure HTTP/1.1 (default: both)")
	onlyHTTP2 := flags.Bool("http2", false, "Measure HTTP/2 (default: both)")
	name := flags.String("cipher", "default", "default, aes128, aes256 or chacha20")
	asJSON := flags.Bool("json", false, "Print a JSON object")
	asMarkdown := flags.Bool("markdown", false, "Print Markdown")
	cmd.MarkFlagsMutuallyExclusive("json", "markdown")
	cmd.MarkFlagsMutuallyExclusive("size", "file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := options{file: *file, time: *duration, connections: *connections}
		if *onlyHTTP1 || !*onlyHTTP2 {
			o.protocols = append(o.protocols, http1)
		}
		if *onlyHTTP2 || !*onlyHTTP1 {
			o.protocols = append(o.protocols, http2)
		}
		if err := o.set(*size, *name); err != nil {
			return err
		}
		write := (*report).writeText
		switch {
		case *asJSON:
			write = (*report).writeJSON
		case *asMarkdown:
			write = (*report).writeMarkdown
		}
		cmd.SilenceUsage = true
		support, err := ktls.Probe()
		if err != nil {
			verdict, err := check(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return errors.New("nothing was measured: " + verdict)
		}
		if o.cipher.suite != 0 && !support.Has(o.cipher.suite) {
			return fmt.Errorf("the kernel can't do %s; it can do %v", *name, support)
		}
		return measureAndWrite(cmd, &o, write)
	}
	cmd.AddCommand(serverCommand(), clientCommand())
	return cmd
}

// set sets what has to be looked at.
func (o *options) set(size, cipherName string) error {
	n, err := humanize.ParseBytes(size)
	switch {
	case err != nil || n < fileserver.DefaultMinSize:
		return fmt.Errorf("--size must be at least 128KiB, for example 64MiB, and not %q: shorter bodies are sent as without the directive", size)
	case n > math.MaxInt64:
		return fmt.Errorf("--size is too large: %q", size)
	}
	o.size = int64(n)
	if o.file != "" {
		f, err := os.Open(o.file)
		if err != nil {
			return fmt.Errorf("--file: %w", err)
		}
		defer f.Close()
		info, err := f.Stat()
		switch {
		case err != nil:
			return fmt.Errorf("--file: %w", err)
		case !info.Mode().IsRegular():
			return fmt.Errorf("--file: %s is not a regular file", o.file)
		case info.Size() < fileserver.DefaultMinSize:
			return fmt.Errorf("--file: %s has %d bytes; it must have 128KiB at least: shorter bodies are sent as without the directive", o.file, info.Size())
		}
		o.size = info.Size()
	}
	if o.time < time.Second || o.time > time.Hour {
		return fmt.Errorf("--time must be between 1s and 1h: %v", o.time)
	}
	if o.connections < 1 || o.connections > 1000 {
		return fmt.Errorf("--connections must be between 1 and 1000: %d", o.connections)
	}
	i := slices.IndexFunc(ciphers, func(c cipher) bool { return c.name == strings.ToLower(cipherName) })
	if i < 0 {
		return fmt.Errorf("--cipher must be default, aes128, aes256 or chacha20: %q", cipherName)
	}
	o.cipher = ciphers[i]
	return nil
}

// measureAndWrite measures, and writes the report, also of a part after an interruption.
func measureAndWrite(cmd *cobra.Command, o *options, write func(*report, io.Writer) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	r, err := measure(ctx, o, newProgress(cmd.ErrOrStderr(), o))
	interrupted := ctx.Err() != nil
	if err != nil && !interrupted {
		return err
	}
	r.judge()
	if err := write(r, cmd.OutOrStdout()); err != nil {
		return err
	}
	if interrupted {
		exit := func(caddycmd.Flags) (int, error) { return exitInterrupted, nil }
		cmd.SilenceErrors = true // what there is has been printed
		return caddycmd.WrapCommandFuncForCobra(exit)(cmd, nil)
	}
	return nil
}

// Command bench measures what it costs to serve files with Caddy, with and
// without kernel TLS, and with nginx. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

const usage = `usage: bench native  [FLAG...]   measure on this machine's kernel, which needs TLS
       bench counted [FLAG...]   count in virtual machines, on any Linux machine
       bench check   [FLAG...]   count a little, and compare with bounds
       bench timed   [FLAG...]   take times in virtual machines, for the workload sequence
       bench report DIR...       write report.md and benchstat.txt anew, of runs merged
       bench publish DIR...      write ../docs/benchmark.md, and pictures, from counted runs merged
       bench [FLAG...]           native if the kernel has TLS, else counted

"bench native -help" and so on list the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, arguments []string) error {
	name := ""
	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "-") {
		name, arguments = arguments[0], arguments[1:]
	} else if len(arguments) > 0 && strings.HasPrefix(strings.TrimLeft(arguments[0], "-"), "h") {
		fmt.Print(usage)
		return nil
	}
	switch name {
	case "":
		if kernelTLS() {
			return measure(ctx, "native", arguments)
		}
		fmt.Fprintf(os.Stderr, "bench: this machine's kernel, %s, has no TLS (\"modprobe tls\" as root may help): counting in virtual machines instead, which says nothing about time\n", kernelRelease())
		return measure(ctx, "counted", arguments)
	case "native", "counted", "check", "timed":
		return measure(ctx, name, arguments)
	case "guest":
		if len(arguments) != 1 {
			return errors.New("guest: the file with the job is needed")
		}
		return runGuest(ctx, arguments[0])
	case "floor":
		if len(arguments) != 1 {
			return errors.New("floor: the port is needed")
		}
		return runFloor(ctx, arguments[0])
	case "publish":
		return publish(arguments, "../docs")
	case "report":
		return rewrite(arguments)
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("%q is no command", name)
}

// kernelTLS says whether this machine's kernel has its module tls.
func kernelTLS() bool {
	_, err := os.Stat("/proc/net/tls_stat")
	return err == nil
}

// measure runs one of the modes.
func measure(ctx context.Context, mode string, arguments []string) error {
	p := defaults(mode)
	flags := flag.NewFlagSet("bench "+mode, flag.ContinueOnError)
	out := flags.String("out", filepath.Join("results", mode), "folder for results.json, report.md and benchstat.txt")
	p.register(flags)
	caddy := ""
	if mode == "native" {
		flags.StringVar(&caddy, "caddy", "", "measure this binary, which has the module; without, one is built from the checkout")
	}
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is no flag; lists have commas and no spaces", flags.Arg(0))
	}
	if err := p.validate(); err != nil {
		return err
	}
	if mode == "native" && !kernelTLS() {
		return fmt.Errorf("this machine's kernel, %s, has no TLS: load it with \"modprobe tls\" as root, or count with \"bench counted\"", kernelRelease())
	}
	recorded := mode
	if mode == "check" {
		recorded = "counted"
	}
	r, err := newRun(p, recorded, *out, os.Stderr)
	if err != nil {
		return err
	}
	if mode == "native" {
		return r.finish(r.native(ctx, caddy))
	}
	err = r.finish(r.counted(ctx))
	if mode == "check" && err == nil {
		err = check(os.Stdout, r.results)
	}
	return err
}

// rewrite writes the reports of runs anew, into the folder of the first.
func rewrite(dirs []string) error {
	r, err := readResults(dirs)
	if err != nil {
		return err
	}
	return r.write(dirs[0])
}

package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Command is `caddy ktls check`. selfTest tells what this build's HTTP does not do.
func Command(selfTest func() []HTTPFault) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--json]",
		Short: "Checks whether kernel TLS works on this machine",
		Long: `
Checks whether kernel TLS works on this machine, and says what to do if not. It
needs no configuration and no privileges, and changes nothing. One thing may
happen: with the capability CAP_NET_ADMIN, as root has it, the kernel loads its
module tls by itself, as it does for a Caddy that has it.

Each version of TLS is tried with each cipher that the kernel may know, on a
connection over loopback, and what the kernel encrypts is read and compared.
Then there are the kernel's version, the Go that built this program, the module
and whether it is loaded at boot, network interfaces, and the limit of file
descriptors. The limit is that of this shell: a service has its own. What this
build's Go and Caddy do with a response is tried too.

Every line is ok, a note, a warning, or FAIL, with what to do behind an arrow.
The last line is the verdict.

The exit code is 0 if kernel TLS works here, else 1.

--json prints an object instead, with:

    works             whether the exit code is 0
    verdict           the verdict
    os                the operating system, as Go names it
    kernel            release, version ("" if the release doesn't tell it), and
                      faults: id, what, source (URL)
    go                version that built this, and its faults, as those of kernel
    container         what this runs in ("" if in none that is known)
    module            state (loaded, built_in, not_loaded, not_installed, or
                      modules_gone), loaded_by_check, at_boot
    ciphers           for each: tls (version), cipher, works, sendfile, rekey,
                      error
    http              what this build's Go or Caddy does not do as expected:
                      protocol, fault, and whether files are copied for it
    interfaces        names of those that have TLS offload (sending) on
    file_descriptors  the most that a process may have (0 if not known)
    lines             the text: topic, state (ok, note, warn, fail), text, todo`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := cmd.Flags().Bool("json", false, "Print an object of JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r := newReport(findFacts(selfTest))
		write := r.writeText
		if *asJSON {
			write = r.writeJSON
		}
		if err := write(cmd.OutOrStdout()); err != nil {
			return err
		}
		if !r.Works {
			cmd.SilenceErrors = true // the verdict is printed
			return errors.New(r.Verdict)
		}
		return nil
	}
	return cmd
}

// facts are what findFacts finds out. The JSON names are documented in the
// command's help.
type facts struct {
	OS              string        `json:"os"`
	Kernel          kernelFacts   `json:"kernel"`
	Go              goFacts       `json:"go"`
	Container       string        `json:"container"`
	Module          moduleFacts   `json:"module"`
	Ciphers         []cipherFacts `json:"ciphers"`
	HTTP            []HTTPFault   `json:"http"`
	Interfaces      []string      `json:"interfaces"`
	FileDescriptors uint64        `json:"file_descriptors"`
}

type kernelFacts struct {
	Release string  `json:"release"` // as uname -r
	Version string  `json:"version"`
	Faults  []fault `json:"faults"`
}

type goFacts struct {
	Version string  `json:"version"` // as runtime.Version
	Faults  []fault `json:"faults"`
}

type moduleFacts struct {
	State         string `json:"state"`
	LoadedByCheck bool   `json:"loaded_by_check"`
	AtBoot        bool   `json:"at_boot"`
}

type cipherFacts struct {
	TLS      string `json:"tls"`
	Cipher   string `json:"cipher"`
	Works    bool   `json:"works"`
	SendFile bool   `json:"sendfile"`
	Rekey    bool   `json:"rekey"`
	Error    string `json:"error"`

	fault bool // the kernel takes the cipher, but it does not work
	inert bool // the kernel says that it takes the cipher, and does nothing
}

// A line is one line of the text.
type line struct {
	Topic string   `json:"topic"`
	State string   `json:"state"`
	Text  string   `json:"text"`
	Todo  []string `json:"todo"`
}

// The states of a line.
const (
	stateOK   = "ok"
	stateNote = "note"
	stateWarn = "warn"
	stateFail = "fail"
)

type report struct {
	Works   bool   `json:"works"`
	Verdict string `json:"verdict"`
	facts
	Lines []line `json:"lines"`
}

func newReport(f facts) *report {
	r := &report{facts: f, Lines: []line{}}
	if f.OS != "linux" {
		r.Verdict = "no kernel TLS: it is a feature of Linux, and this is " + f.OS
		return r
	}
	r.judgeKernel()
	r.judgeGo()
	if slices.ContainsFunc(r.Ciphers, func(c cipherFacts) bool { return c.inert }) {
		r.judgeSandbox()
	} else {
		r.judgeModule()
		r.judgeCiphers()
	}
	r.judgeHTTP()
	r.judgeLimits()
	return r
}

func (r *report) add(topic, state, text string, todo ...string) {
	r.Lines = append(r.Lines, line{topic, state, text, append([]string{}, todo...)})
}

func (r *report) judgeKernel() {
	state, text := stateOK, r.Kernel.Release
	var todo []string
	switch {
	case r.Kernel.Version == "":
		state = stateNote
		text += ": a distribution's number, which does not tell what faults are fixed; keep it up to date"
	case !strings.HasPrefix(text, r.Kernel.Version):
		text += " (" + r.Kernel.Version + ")"
	}
	for _, f := range r.Kernel.Faults {
		todo = append(todo, f.String())
	}
	if len(todo) > 0 {
		state = stateWarn
		text += " has known faults in kernel TLS, unless the distribution has fixed them"
	}
	if v, _ := upstreamVersion(r.Kernel.Release, ""); v.less(recommended) {
		state = stateWarn
		todo = append(todo, "a maintained kernel from 6.6 on is recommended: kernel TLS has had security bugs in older ones")
	} else if len(todo) > 0 {
		todo = append(todo, "install the newest kernel that the distribution has")
	}
	r.add("kernel", state, text, todo...)
	if r.Container != "" {
		r.add("container", stateNote, r.Container+": it is the host's kernel that counts, and the host where its modules are loaded")
	}
}

func (r *report) judgeGo() {
	if len(r.Go.Faults) == 0 {
		return
	}
	var todo []string
	for _, f := range r.Go.Faults {
		todo = append(todo, f.String())
	}
	r.add("Go", stateWarn, r.Go.Version+", which built this, has known faults in TLS", append(todo, "build with the newest Go")...)
}

// Why there is no kernel TLS, by the module's state.
var moduleReasons = map[string]string{
	moduleNotLoaded:    "the module tls is not loaded",
	moduleNotInstalled: "this kernel has no module tls",
	moduleGone:         "the module tls is not loaded, and the running kernel's modules are gone, as after an update",
}

const (
	loadAtBoot   = "at boot: echo tls | sudo tee /etc/modules-load.d/tls.conf"
	restartCaddy = "then restart Caddy, which looks only once"
)

func (r *report) judgeModule() {
	where := ""
	if r.Container != "" {
		where = "on the host: "
	}
	m := r.Module
	switch m.State {
	case moduleBuiltIn:
		r.add("module tls", stateOK, "part of the kernel")
	case moduleLoaded:
		text := "loaded"
		if m.LoadedByCheck {
			text += " just now, by this check"
		}
		switch {
		case r.Container != "":
			r.add("module tls", stateOK, text)
		case m.AtBoot:
			r.add("module tls", stateOK, text+", and at every boot")
		default:
			r.add("module tls", stateWarn, text+", but not at boot", loadAtBoot)
		}
	case moduleNotLoaded:
		r.add("module tls", stateFail, "not loaded", where+"sudo modprobe tls", where+loadAtBoot, restartCaddy)
	case moduleNotInstalled:
		r.add("module tls", stateFail, "this kernel has none",
			where+"install a kernel with CONFIG_TLS, or the distribution's package with more modules; then: sudo modprobe tls",
			where+loadAtBoot, restartCaddy)
	case moduleGone:
		r.add("module tls", stateFail, "not loaded; the running kernel's modules are gone, as after an update",
			"reboot; then: sudo modprobe tls", loadAtBoot)
	}
}

// judgeSandbox sets the verdict where a module tells nothing.
func (r *report) judgeSandbox() {
	r.add("ciphers", stateFail, "keys are taken, and nothing is encrypted: a sandbox, such as gVisor, that says yes and does nothing",
		"run Caddy outside of it, or without this module: connections stay in user space")
	r.Verdict = "no kernel TLS: the kernel, or a sandbox around this program, takes keys and encrypts nothing"
}

// judgeCiphers sets the verdict.
func (r *report) judgeCiphers() {
	var works, sendFile, rekey bool
	var missing, faults []string
	first := "nothing was tried" // error
	ciphers := make(map[string][]string)
	for i, c := range r.Ciphers {
		name := "TLS " + c.TLS + " with " + c.Cipher
		switch {
		case c.Works:
			ciphers[c.TLS] = append(ciphers[c.TLS], c.Cipher)
		case c.fault:
			faults = append(faults, name+": "+c.Error)
		default:
			missing = append(missing, name)
		}
		works, sendFile, rekey = works || c.Works, sendFile || c.SendFile, rekey || c.Rekey
		if i == 0 {
			first = c.Error
		}
	}
	if !works {
		why := moduleReasons[r.Module.State]
		if why == "" || len(faults) > 0 {
			r.add("ciphers", stateFail, first)
			why = "no connection could be moved to the kernel"
		}
		r.Verdict = "no kernel TLS: " + why
		return
	}
	for _, version := range []string{"1.3", "1.2"} {
		if names := ciphers[version]; len(names) > 0 {
			r.add("TLS "+version, stateOK, strings.Join(names, ", "))
		} else {
			r.add("TLS "+version, stateWarn, "none; such connections stay in user space")
		}
	}
	if len(missing) > 0 {
		r.add("ciphers", stateNote, "not in this kernel: "+strings.Join(missing, ", ")+"; such connections stay in user space",
			"modules for them may be missing: sudo modprobe -a gcm chacha20poly1305")
	}
	if sendFile {
		r.add("sendfile", stateOK, "works")
	} else {
		r.add("sendfile", stateWarn, "not from the file system of this program; from such the files are copied")
	}
	if rekey {
		r.add("rekey", stateOK, "works")
	} else {
		r.add("rekey", stateNote, "no: a client that asks for a new key (rare) gets its response, then the connection is closed; from Linux 6.14 on it works")
	}
	for _, f := range faults {
		r.add("ciphers", stateFail, f)
	}
	if len(faults) > 0 {
		r.Verdict = "kernel TLS is faulty here: don't use it"
		return
	}
	r.Works, r.Verdict = true, "kernel TLS works here"
}

// fewDescriptors is where the limit may hurt. Caddy's systemd unit sets 1048576
// (github.com/caddyserver/dist).
const fewDescriptors = 8192

func (r *report) judgeLimits() {
	switch n := r.FileDescriptors; {
	case n == 0:
	case n < fewDescriptors:
		todo := "raise the limit: LimitNOFILE=1048576 in a systemd unit, ulimit -n 1048576 as root in a shell"
		if r.Container != "" {
			todo = "raise the container's limit, for one by docker run --ulimit nofile=1048576"
		}
		r.add("files", stateWarn, fmt.Sprintf("at most %d file descriptors: a download takes 2", n), todo)
	default:
		r.add("files", stateOK, fmt.Sprintf("at most %d file descriptors", n))
	}
	if len(r.Interfaces) > 0 {
		r.add("network", stateNote, strings.Join(r.Interfaces, ", ")+": TLS offload is on, the network card may encrypt; this module has not been tested with that")
	} else {
		r.add("network", stateNote, "no interface has TLS offload on: the CPU encrypts")
	}
}

func (r *report) writeText(w io.Writer) error {
	var b strings.Builder
	for _, l := range r.Lines {
		state := l.State
		if state == stateFail {
			state = "FAIL"
		}
		fmt.Fprintf(&b, "%-11s %-5s %s\n", l.Topic, state, l.Text)
		for _, todo := range l.Todo {
			fmt.Fprintf(&b, "%-11s %-5s -> %s\n", "", "", todo)
		}
	}
	fmt.Fprintf(&b, "verdict: %s\n", r.Verdict)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

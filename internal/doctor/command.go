package doctor

import (
	"errors"

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

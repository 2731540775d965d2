package doctor

import (
	"errors"
	"io"

	"github.com/spf13/cobra"
)

// Command returns the command `caddy ktls check`. selfTest tries this build's Go and
// Caddy. It is called on Linux only.
func Command(selfTest func() []HTTPFault) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--json]",
		Short: "Checks whether kernel TLS works on this machine",
		Long: `
Checks whether kernel TLS works on this machine, and says what to do if not. It
needs no configuration and no privileges, and changes nothing but one thing: if
it has the capability CAP_NET_ADMIN, as root does, the kernel loads its module
tls. The kernel does the same for a Caddy with that capability.

Each cipher that the kernel may know is tried with TLS 1.3 and TLS 1.2, on a
connection over loopback: what the kernel encrypts is decrypted and compared.
The check also tries what this build's Go and Caddy do with a response. It looks
at the kernel's version, the Go that built this program, the module tls and
whether it is loaded at boot, the network interfaces, and the limit of file
descriptors. That limit is the one of this shell: a service has its own.

Every line is ok, a note, a warning (warn) or a failure (FAIL). What to do about
it stands behind an arrow. The last line is the verdict.

The exit code is 0 if kernel TLS works, else 1.

--json prints an object instead, with:

    works             whether the exit code is 0
    verdict           the verdict
    os                the operating system, as Go names it
    kernel            release, version ("" if the release doesn't tell it), fips
                      (whether it is in FIPS mode), and faults: id, what, source
                      (URL)
    go                version that built this program, fips (whether it is in
                      FIPS mode), and faults as above
    container         the kind of container around this program ("" if none is
                      known)
    module            state (loaded, built_in, not_loaded, not_installed, or
                      modules_gone), loaded_by_check, at_boot
    ciphers           for each: tls (version), cipher, works, sendfile, rekey,
                      error
    http              what this build's Go or Caddy does not do as expected:
                      protocol, fault, and whether files are copied for it
    interfaces        names of those with TLS offload (for sending) on
    file_descriptors  how many a process may have (0 if not known)
    lines             the text: topic, state (ok, note, warn, fail), text, todo`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := cmd.Flags().Bool("json", false, "Print a JSON object")
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
			cmd.SilenceErrors = true // the verdict has been printed
			return errors.New(r.Verdict)
		}
		return nil
	}
	return cmd
}

// Check writes what the command says as text, and returns the verdict.
func Check(w io.Writer, selfTest func() []HTTPFault) (verdict string, err error) {
	r := newReport(findFacts(selfTest))
	return r.Verdict, r.writeText(w)
}

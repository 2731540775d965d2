package telemetry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// StatusCommand returns the command `caddy ktls status`.
func StatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [--address <interface>] [--config <path> [--adapter <name>]] [--json]",
		Short: "Shows what the running Caddy has offloaded",
		Long: `
Shows how many TLS connections of the running Caddy were offloaded to the kernel,
and why others were not, how many bytes of bodies went out by sendfile, and why
others were copied. The numbers are those of the metrics caddy_ktls_*, and count
from the start of the process.

The running Caddy is asked through its admin endpoint: the one that --address
names, or the one in the configuration that --config names, or localhost:2019.
--json prints the answer of the endpoint to GET /ktls/status as it is.
`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              caddycmd.WrapCommandFuncForCobra(runStatus),
	}
	cmd.Flags().StringP("address", "", "", "Address of the admin endpoint, if not the default")
	cmd.Flags().StringP("config", "c", "", "Configuration that names the admin endpoint, if --address does not")
	cmd.Flags().StringP("adapter", "a", "", "Name of the adapter for the configuration")
	cmd.Flags().Bool("json", false, "Print JSON")
	return cmd
}

func runStatus(flags caddycmd.Flags) (int, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("finding the admin endpoint: %w", err)
	}
	if err := showStatus(os.Stdout, address, flags.Bool("json")); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// showStatus writes what the admin endpoint at an address says.
func showStatus(to io.Writer, address string, asJSON bool) error {
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, statusPath, nil, nil)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "HTTP 404"):
		return fmt.Errorf("the Caddy whose admin endpoint is at %s does not have the module ktls: build it with the module, and restart it", address)
	default:
		return fmt.Errorf("asking the admin endpoint at %s: %w (is Caddy running, and is its admin endpoint there? --address names another)", address, err)
	}
	defer resp.Body.Close()
	if asJSON {
		_, err := io.Copy(to, resp.Body)
		return err
	}
	var status Status
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return fmt.Errorf("the answer of the admin endpoint at %s: %w", address, err)
	}
	return status.write(to)
}

// write writes a Status as text for people.
func (s *Status) write(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	var err error
	row := func(name, format string, values ...any) {
		_, failed := fmt.Fprintf(table, name+"\t"+format+"\n", values...)
		err = errors.Join(err, failed)
	}
	if s.Available {
		row("kernel TLS", "available")
	} else {
		row("kernel TLS", "not available (%s): %s. %s", s.Reason, s.Cause, lookCloser)
	}
	if s.Error != "" {
		row("error", "%s", s.Error)
	}
	row("module", "%s", s.Version)
	if len(s.Servers) == 0 {
		row("servers", "none with the directive ktls")
	}
	bytes := func(n int64) string { return humanize.IBytes(uint64(n)) }
	for _, server := range s.Servers {
		row("\nserver", "%s", server.Name)
		row("  connections", "%s; %d offloaded now", byWord(server.Connections, humanize.Comma), server.OffloadedNow)
		row("  responses", "%s", byWord(server.Responses, humanize.Comma))
		row("  by sendfile", "%s", bytes(server.SendfileBytes))
		row("  copied", "%s", byWord(server.CopiedBytes, bytes))
		for _, problem := range []struct {
			name string
			n    int64
		}{
			{"keys replaced", server.KeyUpdates},
			{"connections retired", server.ConnectionsRetired},
			{"connections lost", server.ConnectionsLost},
			{"responses failed", server.ResponsesFailed},
		} {
			if problem.n > 0 {
				row("  "+problem.name, "%d", problem.n)
			}
		}
	}
	return errors.Join(err, table.Flush())
}

// byWord lists numbers with their words, the largest first.
func byWord(numbers map[string]int64, format func(int64) string) string {
	words := slices.SortedFunc(maps.Keys(numbers), func(a, b string) int {
		return cmp.Or(cmp.Compare(numbers[b], numbers[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, word := range words {
		if numbers[word] > 0 {
			parts = append(parts, word+" "+format(numbers[word]))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

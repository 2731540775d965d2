// Package caddyktls offloads TLS connections of Caddy's sites to the Linux kernel (kernel
// TLS) where that pays off, and sends files over them by sendfile(2).
//
// The Caddyfile directive ktls sets up all of it. In JSON there are two modules: the
// listener wrapper caddy.listeners.ktls on a server, and the handler http.handlers.ktls
// in front of the handlers that serve files.
package caddyktls

import (
	"io"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-ktls/caddy-ktls/fileserver"
	"github.com/caddy-ktls/caddy-ktls/internal/benchmark"
	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(telemetry.AdminAPI{})

	httpcaddyfile.RegisterDirective("ktls", parseDirective)
	// The handler stands before every other handler that may alter a body.
	httpcaddyfile.RegisterDirectiveOrder("ktls", httpcaddyfile.Before, "tracing")

	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "ktls",
		Short: "Commands about kernel TLS",
		Long: `
The directive ktls offloads TLS connections to the Linux kernel (kernel TLS).
These commands tell whether that works on a machine, whether it pays there, and
what a running Caddy has offloaded.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs // any other word is not a command
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(doctor.Command(httpFaults), telemetry.StatusCommand(), benchmark.Command(check))
		},
	})
}

// check writes what `caddy ktls check` says.
func check(w io.Writer) (verdict string, err error) { return doctor.Check(w, httpFaults) }

// httpFaults runs the self-test of package fileserver. It returns the faults as package
// doctor takes them.
func httpFaults() (faults []doctor.HTTPFault) {
	for _, f := range fileserver.SelfTest() {
		faults = append(faults, doctor.HTTPFault(f))
	}
	return faults
}

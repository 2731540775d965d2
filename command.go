package caddyktls

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-ktls/caddy-ktls/internal/doctor"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "ktls",
		Short: "Commands about kernel TLS",
		Long: `
Tells about kernel TLS, to which the directive ktls moves connections.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs // another word is no command
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(doctor.Command(httpFaults), telemetry.StatusCommand())
		},
	})
}

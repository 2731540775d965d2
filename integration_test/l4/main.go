// Command l4 is Caddy with this module and caddy-l4, whose listener wrapper stands
// before TLS.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4/layer4"
	_ "github.com/mholt/caddy-l4/modules/l4close"

	_ "github.com/caddy-ktls/caddy-ktls"
)

func main() { caddycmd.Main() }

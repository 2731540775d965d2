package harness

import "strings"

// FileSite is a Caddyfile with the smallest site that uses the module.
const FileSite = `
https://localhost:{$PORT} {
	ktls
	root {$ROOT}
	file_server
}`

// StockSite is the same site at {$PORT2}, without the module.
const StockSite = `
https://localhost:{$PORT2} {
	root {$ROOT}
	file_server
}`

// OffloadSite returns FileSite with the option offload.
func OffloadSite(offload string) string {
	return strings.Replace(FileSite, "ktls", "ktls {\n\t\toffload "+offload+"\n\t}", 1)
}

// BothSites returns a site that offloads all connections, and StockSite.
func BothSites() string { return OffloadSite("all") + StockSite }

// HTTP2Site is a site where the kernel sends smaller files too. It also has responses
// that are not files.
const HTTP2Site = `
https://localhost:{$PORT} {
	ktls {
		min_size 8KiB
		offload all
	}
	root {$ROOT}
	respond /protocol "{http.request.proto}"
	respond /echo "{http.request.body}"
	file_server
}`

// ServerTimeouts returns global options for two servers with these timeouts. The second
// is the one without the module.
func ServerTimeouts(offload, options string) string {
	return `{
	servers 127.0.0.1:{$PORT} {
		listener_wrappers {
			ktls {
				offload ` + offload + `
			}
		}
		timeouts {
			` + options + `
		}
	}
	servers 127.0.0.1:{$PORT2} {
		timeouts {
			` + options + `
		}
	}
}
`
}

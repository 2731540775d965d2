package benchmark

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// The sides that are compared, as reports name them.
const (
	stock = "stock"
	moved = "ktls"
)

// fileName is the name of the file that the servers serve.
const fileName = "body"

// A site is what a server is asked to serve first. Later questions are empty: they ask
// what the server has u.
type site struct {
	Caddyfile string `json:"caddyfile,omitempty"`
}

// A usage is what a server has used and done since it started.
type usage struct {
	User   time.Duration `json:"user"`   // CPU time
	Kernel time.Duration `json:"kernel"` // CPU time
	Calls  int64         `json:"calls"`  // system calls that read, write or send
	// Sendfile is how many bytes of bodies the module has sent by sendfile(2).
	Sendfile int64 `json:"sendfile"`
	// Offloaded is how many connections are offloaded now, by the module, and
	// InKernel by the kernel. InKernel is -1 if the kernel does not say.
	Offloaded int64 `json:"offloaded"`
	InKernel  int64 `json:"in_kernel"`
	// Words are what the module has counted otherwise, to be shown if something is wrong.
	Words string `json:"words"`
}

func serverCommand() *cobra.Command {
	return hidden("server", func(s site) (usage, error) {
		if s.Caddyfile != "" {
			if err := serve(s.Caddyfile); err != nil {
				return usage{}, err
			}
		}
		return currentUsage()
	})
}

func serve(caddyfile string) error {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// currentUsage returns what this process has u.
func currentUsage() (usage, error) {
	u, err := processUsage()
	if err != nil {
		return u, err
	}
	// A sendfile is a read and a write there, and a sendmsg is neither.
	calls := ktls.CountedSystemCalls()
	u.Calls += calls.Sendmsg - calls.Sendfile
	status, err := telemetry.CurrentStatus()
	if err != nil {
		return u, err
	}
	for _, s := range status.Servers {
		u.Sendfile += s.SendfileBytes
		u.Offloaded += s.OffloadedNow
		u.Words += fmt.Sprintf("connections %v, responses %v, failed %d", s.Connections, s.Responses, s.ResponsesFailed)
	}
	u.InKernel = -1
	if kernel, err := ktls.KernelStatistics(); err == nil {
		u.InKernel = int64(kernel["TlsCurrTxSw"] + kernel["TlsCurrTxDevice"])
	}
	return u, nil
}

// since returns what was used between two usages, and what is now.
func (u usage) since(before usage) usage {
	u.User -= before.User
	u.Kernel -= before.Kernel
	u.Calls -= before.Calls
	u.Sendfile -= before.Sendfile
	return u
}

var siteTemplate = template.Must(template.New("").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(`{
	admin off
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	storage file_system {{quote .Storage}}
	servers {
		protocols h1 h2
		{{- if .KTLS}}
		listener_wrappers {
			ktls
		}
		{{- end}}
	}
	log {
		level WARN
	}
}

https://localhost:{{.Port}} {
	bind 127.0.0.1
	tls {
		issuer internal
		{{- if .Suite}}
		protocols tls1.2 tls1.2
		ciphers {{.Suite}}
		{{- end}}
	}
	{{- if .KTLS}}
	ktls
	{{- end}}
	root {{quote .Root}}
	file_server
}
`))

// A server is a process that serves the file.
type server struct {
	*child
	address string
	root    string // path of the certificate that its own is signed with
}

// startServer starts a server for one side. It serves the folder dir.
func startServer(side, dir string, o *options) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return nil, err
	}
	address := ln.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if err := ln.Close(); err != nil {
		return nil, err
	}
	storage := filepath.Join(dir, "storage "+side)
	var caddyfile bytes.Buffer
	err = siteTemplate.Execute(&caddyfile, map[string]any{
		"Storage": storage, "Port": port, "Suite": o.cipher.suite, "KTLS": side == moved, "Root": filepath.Join(dir, "root"),
	})
	if err != nil {
		return nil, err
	}
	c, err := start("server", dir)
	if err != nil {
		return nil, err
	}
	if _, err := ask[usage](c, site{caddyfile.String()}); err != nil {
		c.end(true)
		return nil, err
	}
	return &server{c, address, filepath.Join(storage, "pki", "authorities", "local", "root.crt")}, nil
}

// usage asks what the server has u.
func (s *server) usage() (usage, error) { return ask[usage](s.child, site{}) }

// wantWork returns an error unless the kernel has sent the bodies that a client has got,
// if this is the side with the directive, or else that nothing of them went out so.
func (u usage) wantWork(side string, got download, connections int) error {
	if side == stock {
		if u.Sendfile != 0 || u.Offloaded != 0 {
			return errors.New("the server without the directive has used kernel TLS: please report it")
		}
		return nil
	}
	// Of each body, the server itself may send the beginning and the end.
	const byServer = 32 << 10
	n := int64(connections)
	if u.Sendfile+got.Responses*byServer < got.Bytes || u.Offloaded < n || u.InKernel >= 0 && u.InKernel < n {
		return fmt.Errorf("the kernel has not done the work: %d of %d bytes went out by sendfile, %d of %d connections are offloaded, %d by the kernel's own count (%s). %s",
			u.Sendfile, got.Bytes, u.Offloaded, n, u.InKernel, u.Words, "Please report it with what caddy ktls check says")
	}
	return nil
}

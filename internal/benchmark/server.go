package benchmark

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
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

var serverNames = map[string]string{stock: "server without the directive", moved: "server with the directive"}

// What the servers serve, in their working folder.
const (
	rootName = "root"
	fileName = "body"
)

// patience limits the wait for a server, and for a byte that it has to send.
const patience = time.Minute

// A site is what a server is asked to serve first. Later questions are empty: they ask
// what the server has used.
type site struct {
	Caddyfile string `json:"caddyfile,omitempty"`
	Address   string `json:"address,omitempty"`
}

// A usage is what a server has used and done since it started.
type usage struct {
	User   time.Duration `json:"user"`   // CPU time
	Kernel time.Duration `json:"kernel"` // CPU time
	Calls  int64         `json:"calls"`  // system calls that read, write or send; 0 if not known
	// Sendfile is how many bytes of bodies the module has sent by sendfile(2).
	Sendfile int64 `json:"sendfile"`
	// Offloaded is how many connections are offloaded now, by the module's count.
	Offloaded int64 `json:"offloaded"`
	// InKernel is how many connections kernel TLS was asked to encrypt since the server
	// started, by the kernel's count, or -1 if the kernel does not say.
	InKernel int64 `json:"in_kernel"`
	// Words are what the module has counted otherwise, to be shown if something is wrong.
	Words string `json:"words"`
}

func serverCommand() *cobra.Command {
	before := int64(-1)
	return hidden("server", func(s site) (usage, error) {
		if s.Caddyfile != "" {
			before = inKernel()
			if err := serve(s); err != nil {
				return usage{}, err
			}
		}
		u, err := currentUsage()
		u.InKernel = -1
		if before >= 0 {
			u.InKernel = inKernel() - before
		}
		return u, err
	})
}

// serve returns when the server has its certificate.
func serve(s site) error {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.Caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := tls.Dial("tcp", s.Address, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true}) //nolint:gosec // the client verifies
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it has no certificate: %w", err)
		}
	}
}

// inKernel returns how many connections kernel TLS was asked to encrypt since the machine
// started, or -1.
func inKernel() int64 {
	counters, err := ktls.KernelStatistics()
	if err != nil {
		return -1
	}
	return int64(counters["TlsTxSw"] + counters["TlsTxDevice"])
}

// currentUsage returns what this process has used, but for InKernel.
func currentUsage() (usage, error) {
	u, err := processUsage()
	if err != nil {
		return u, err
	}
	status, err := telemetry.CurrentStatus()
	if err != nil {
		return u, err
	}
	for _, s := range status.Servers {
		u.Sendfile += s.SendfileBytes
		u.Offloaded += s.OffloadedNow
		u.Words += fmt.Sprintf("connections %v, responses %v, failed %d", s.Connections, s.Responses, s.ResponsesFailed)
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

// Paths are those of the working folder, so none has to be quoted.
var siteTemplate = template.Must(template.New("").Parse(`{
	admin off
	persist_config off
	auto_https disable_redirects
	skip_install_trust
	storage file_system {{.Storage}}
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
	root {{.Root}}
	file_server
}
`))

// A server is a process that serves the file.
type server struct {
	*child
	address string
	root    string // path of the certificate that its own is signed with
}

// startServer starts a server for one side. dir is its working folder.
func startServer(all *children, side, dir string, o *options) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		return nil, err
	}
	address := ln.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if err := ln.Close(); err != nil {
		return nil, err
	}
	storage := "storage-" + side
	suite := ""
	if o.cipher.suite != 0 {
		suite = tls.CipherSuiteName(o.cipher.suite)
	}
	var caddyfile bytes.Buffer
	err = siteTemplate.Execute(&caddyfile, map[string]any{
		"Storage": storage, "Port": port, "Suite": suite, "KTLS": side == moved, "Root": rootName,
	})
	if err != nil {
		return nil, err
	}
	c, err := all.start(serverNames[side], "server", dir)
	if err != nil {
		return nil, err
	}
	if _, err := ask[usage](c, site{caddyfile.String(), address}, 2*patience); err != nil {
		return nil, err
	}
	return &server{c, address, filepath.Join(dir, storage, "pki", "authorities", "local", "root.crt")}, nil
}

// usage asks what the server has used.
func (s *server) usage() (usage, error) { return ask[usage](s.child, site{}, patience) }

// wantWork returns an error unless the kernel has sent the bodies that a client has got,
// if this is the side with the directive, or else if anything went out so.
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
	if u.Sendfile+got.Responses*byServer >= got.Bytes && u.Offloaded >= n && (u.InKernel >= n || u.InKernel < 0) {
		return nil
	}
	return fmt.Errorf("the kernel has not done the work. The module has counted: %s. "+
		"By sendfile went %d of %d bytes; %d of %d connections are offloaded, and the kernel was asked to encrypt %d. "+
		"caddy ktls check may say why. If it does not, please report it",
		u.Words, u.Sendfile, got.Bytes, u.Offloaded, n, u.InKernel)
}

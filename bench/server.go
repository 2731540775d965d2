package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// A server is a program that serves the site.
type server struct {
	name  string
	host  string // where it listens; clients say localhost
	port  int
	h2c   int // port for HTTP/2 without TLS, of the server plain
	admin int // port of Caddy's admin endpoint
	// proxy is the port of a site of its own, so that files have no route more. It
	// has everything from the port backend, which is 0 if there is no such site.
	proxy, backend int
	// control is the port of the virtual machine that the server is in, seen from
	// outside, else 0.
	control int
	dir     string
	pids    []int
	done    chan struct{} // closed when it has ended
	// uncollected says that Go collects garbage when it is told to only.
	uncollected bool
}

// programs are the paths of what is run. nginx may be empty: there is none.
type programs struct{ caddy, nginx string }

// findNginx returns the path of nginx, or an empty string.
func findNginx() string {
	for _, name := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func (s *server) caddy() bool { return s.name == plain || s.name == stock || s.module() }

func (s *server) nginx() bool { return s.name == nginx || s.name == nginxKTLS }

// module says whether the server has the directive ktls.
func (s *server) module() bool { return s.name == ktls || s.name == ktlsAll }

// url is the address of the body of a case.
func (s *server) url(c Case) string {
	scheme, port := "https", s.port
	if s.name == plain {
		scheme = "http"
		if c.Protocol == http2 {
			port = s.h2c
		}
	}
	if c.proxied() {
		port = s.proxy
	}
	return fmt.Sprintf("%s://localhost:%d/%s", scheme, port, formatSize(c.Size))
}

// config is the server's whole configuration.
func (s *server) config(site site, certificates string) string {
	switch {
	case s.caddy():
		return s.caddyfile(site, certificates)
	case s.nginx():
		return s.nginxConfig(site, certificates)
	}
	return "" // a floor needs none
}

// caddyfile differs between the sites in nothing but the directive ktls, the
// wrapper that belongs to it, and the scheme. HTTP/2 without TLS has a port of
// its own, as Caddy looks into each connection where it is on.
func (s *server) caddyfile(site site, certificates string) string {
	address := fmt.Sprintf("https://localhost:%d", s.port)
	directive, servers := "", "\tservers {\n\t\tprotocols h1 h2\n%s\t}\n"
	tls := fmt.Sprintf("\ttls %[1]s/cert.pem %[1]s/key.pem\n", certificates)
	switch s.name {
	case plain:
		address, tls = fmt.Sprintf("http://localhost:%d, http://localhost:%d", s.port, s.h2c), ""
		servers = fmt.Sprintf("\tservers :%d {\n\t\tprotocols h1\n\t}\n\tservers :%d {\n\t\tprotocols h2c\n\t}\n", s.port, s.h2c)
	case ktls:
		directive = "\tktls\n"
		servers = fmt.Sprintf(servers, "\t\tlistener_wrappers {\n\t\t\tktls\n\t\t}\n")
	case ktlsAll:
		directive = "\tktls {\n\t\toffload all\n\t}\n"
		servers = fmt.Sprintf(servers, "\t\tlistener_wrappers {\n\t\t\tktls {\n\t\t\t\toffload all\n\t\t\t}\n\t\t}\n")
	default:
		servers = fmt.Sprintf(servers, "")
	}
	proxied := ""
	if s.backend != 0 {
		proxied = fmt.Sprintf("https://localhost:%d {\n\tbind %s\n%s%s\treverse_proxy 127.0.0.1:%d\n}\n", s.proxy, s.host, directive, tls, s.backend)
	}
	return fmt.Sprintf(`{
	admin localhost:%d
	persist_config off
	skip_install_trust
	auto_https disable_redirects
%s	log {
		level ERROR
	}
}
%s {
	bind %s
%s%s	root %s
	file_server
}
%s`, s.admin, servers, address, s.host, directive, tls, site.dir, proxied)
}

// nginxConfig has nginx close no connection by itself, and write no log.
func (s *server) nginxConfig(site site, certificates string) string {
	user, option := "", ""
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	if s.name == nginxKTLS {
		option = "\t\tssl_conf_command Options KTLS;\n"
	}
	return fmt.Sprintf(`daemon off;
worker_processes 1;
%spid %[2]s/nginx.pid;
events {
	worker_connections 16384;
}
http {
	access_log off;
	default_type application/octet-stream;
	sendfile on;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path %[2]s;
	proxy_temp_path %[2]s;
	fastcgi_temp_path %[2]s;
	uwsgi_temp_path %[2]s;
	scgi_temp_path %[2]s;
	server {
		listen %[3]s:%[4]d ssl http2;
		server_name localhost;
		ssl_certificate %[5]s/cert.pem;
		ssl_certificate_key %[5]s/key.pem;
		ssl_protocols TLSv1.2 TLSv1.3;
%[6]s		root %[7]s;
	}
}
`, user, s.dir, s.host, s.port, certificates, option, site.dir)
}

// start runs the server and returns when it accepts connections.
func (s *server) start(ctx context.Context, programs programs, site site, certificates string) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	config := filepath.Join(s.dir, "config")
	if err := os.WriteFile(config, []byte(s.config(site, certificates)), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	var cmd *exec.Cmd
	switch {
	case s.caddy():
		cmd = exec.CommandContext(ctx, programs.caddy, "run", "--adapter", "caddyfile", "--config", config)
		cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
		if s.uncollected {
			cmd.Env = append(cmd.Env, "GOGC=off")
		}
	case s.nginx():
		cmd = exec.CommandContext(ctx, programs.nginx, "-p", s.dir, "-c", config, "-e", "stderr")
	default:
		cmd = exec.CommandContext(ctx, "/proc/self/exe", "floor", fmt.Sprint(s.port))
	}
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C in a terminal is for this program, which ends the servers then.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.done = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(s.done)
	}()
	if err := s.ready(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w\n%s", s.name, err, text)
	}
	if s.pids, err = family(cmd.Process.Pid); err != nil {
		return err
	}
	slices.Sort(s.pids)
	return nil
}

func (s *server) ready(ctx context.Context) error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		dialer := net.Dialer{Timeout: time.Second}
		connection, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			return connection.Close()
		}
		select {
		case <-s.done:
			return errors.New("it has ended")
		default:
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("it does not accept connections")
}

// choosePorts takes ports that are free, or those that clients outside of a virtual
// machine know.
func (s *server) choosePorts(outside bool) error {
	s.host = "127.0.0.1"
	ports, err := freePorts(4)
	if outside {
		s.host, ports = "0.0.0.0", guestPorts(s.name)
	}
	if err == nil {
		s.port, s.h2c, s.proxy, s.admin = ports[0], ports[1], ports[2], ports[3]
	}
	return err
}

// freePorts returns ports of 127.0.0.1 that nobody listens on, each another.
func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // when all of them are known
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

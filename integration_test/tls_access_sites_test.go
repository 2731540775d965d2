package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// clientCertificates are what clients may show, by name: of an authority that
// the site trusts, expired, or of nobody.
func clientCertificates(t testing.TB, c *harness.Caddy) map[string]*tls.Certificate {
	t.Helper()
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	testutil.Must(t, err)
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: now.AddDate(-2, 0, 0),
		NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	testutil.Must(t, err)
	testutil.Must(t, os.WriteFile(filepath.Join(c.Dir, "authority.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	issue := func(name string, notAfter time.Time) *tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		testutil.Must(t, err)
		template := &x509.Certificate{
			SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: []string{"ktls"}},
			NotBefore: now.AddDate(-1, 0, 0), NotAfter: notAfter,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			DNSNames:    []string{"one.example", "two.example"}, EmailAddresses: []string{"a@b.example"},
			IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, URIs: []*url.URL{{Scheme: "spiffe", Host: "x"}},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, authority, key.Public(), authorityKey)
		testutil.Must(t, err)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	unknown := testutil.SelfSigned(t)
	return map[string]*tls.Certificate{
		"good": issue("good", now.AddDate(0, 1, 0)), "expired": issue("expired", now.AddDate(0, -1, 0)),
		"unknown": &unknown,
	}
}

// guarded is three servers, each with a site for each mode of client_auth. /see
// tells what a handler sees of a request.
func guarded() string {
	var config strings.Builder
	config.WriteString("{\n")
	ports := []struct{ port, wrapper, ktls string }{
		{"{$PORT}", "listener_wrappers {\n ktls\n}", "ktls"},
		{"{$PORT2}", "", ""},
		{"{$PORT3}", "listener_wrappers {\n ktls {\n offload all\n}\n}", "ktls"},
	}
	for _, p := range ports {
		fmt.Fprintf(&config, "servers 127.0.0.1:%s {\n%s\ntrusted_proxies static 127.0.0.1/32\n}\n", p.port, p.wrapper)
	}
	var see strings.Builder
	for _, name := range []string{
		"tls.version", "tls.cipher_suite", "tls.resumed", "tls.proto", "tls.proto_mutual", "tls.server_name", "tls.ech",
		"tls.client.fingerprint", "tls.client.public_key", "tls.client.public_key_sha256", "tls.client.issuer",
		"tls.client.serial", "tls.client.subject", "tls.client.certificate_pem", "tls.client.certificate_der_base64",
		"tls.client.san.dns_names", "tls.client.san.dns_names.1", "tls.client.san.emails.0", "tls.client.san.ips.0",
		"tls.client.san.uris.0", "remote", "remote.host", "remote.port", "local", "local.host", "local.port", "host",
		"hostport", "port", "proto", "proto_name", "scheme", "method", "uri", "header.X-Forwarded-For",
	} {
		fmt.Fprintf(&see, "%[1]s={http.request.%[1]s};\n", name)
	}
	config.WriteString("}\n(site) {\n" + `
	root {$ROOT}
	@local remote_ip 127.0.0.0/8
	header @local Remote-Is local
	@inside client_ip 203.0.113.0/24
	header @inside Client-Is inside
	@https protocol https
	header @https Protocol-Is https
	@two protocol http/2
	header @two Protocol-Is http/2
	@tls tls
	header @tls Tls-Is there
	@early tls early_data
	header @early Tls-Is early
	@new expression ` + "`{tls_version} == 'tls1.3'`" + `
	header @new Version-Is new
	@good vars {http.request.tls.client.subject} "CN=good,O=ktls"
	header @good Client-Is good
	header Cipher-Is {tls_cipher}
	@denied {
		path /private
		not client_ip 203.0.113.7
	}
	respond @denied denied 403
	respond /private allowed
	respond /see ` + "`" + see.String() + "vars={http.vars.client_ip};`" + `
	file_server
}
`)
	for _, p := range ports {
		for _, mode := range clientModes {
			auth := ""
			if mode.mode != "" {
				auth = "client_auth {\nmode " + mode.mode + "\ntrust_pool file {\npem_file {$DIR}/authority.pem\n}\n}\n"
			}
			fmt.Fprintf(&config, "https://%s.localhost:%s {\n%s\ntls internal {\n%s}\nimport site\n}\n", mode.host, p.port, p.ktls, auth)
		}
	}
	return config.String()
}

var clientModes = []struct {
	host, mode string
	verifies   bool
	shown      string // certificates
	accepts    string // of these
}{
	{"request", "request", false, "none unknown", "none good unknown"},
	{"require", "require", false, "none unknown", "good unknown"},
	{"given", "verify_if_given", true, "none good expired unknown", "none good"},
	{"both", "require_and_verify", true, "none good expired unknown", "good"},
	{"open", "", false, "none", "none good"},
}

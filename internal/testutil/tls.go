package testutil

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TLSConfig returns a server's configuration with a certificate for 127.0.0.1 and
// example.com, and a client that trusts it.
func TLSConfig() (*tls.Config, *http.Client) {
	stock := httptest.NewTLSServer(http.NotFoundHandler())
	defer stock.Close()
	return &tls.Config{Certificates: stock.TLS.Certificates}, stock.Client()
}

// ClientConfig returns the configuration of such a client, for connections that the test
// makes itself.
func ClientConfig(client *http.Client, protocols ...string) *tls.Config {
	config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", protocols
	return config
}

// SelfSigned returns a self-signed certificate, for a server with these names or, without
// names, for a client.
func SelfSigned(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := NewKey()
	Must(t, err)
	certificate, err := Certify(key, names...)
	Must(t, err)
	return certificate
}

// NewKey makes an ECDSA key.
func NewKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Certify returns a certificate as SelfSigned does, for a key of any kind.
func Certify(key crypto.Signer, names ...string) (tls.Certificate, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// PEM returns a certificate and its key in PEM, as files have them.
func PEM(t testing.TB, certificate tls.Certificate) (public, private []byte) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	Must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

// LoggedSecret returns the first secret with a label in a key log.
func LoggedSecret(t testing.TB, log, label string) []byte {
	t.Helper()
	for line := range strings.Lines(log) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == label {
			secret, err := hex.DecodeString(fields[2])
			Must(t, err)
			return secret
		}
	}
	t.Fatal("the key log has no ", label)
	return nil
}

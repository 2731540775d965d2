package ktls

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// shapeConfigs returns configurations of server and client, changed as told.
// The client trusts the server's certificate.
func shapeConfigs(server, client func(*tls.Config)) (s, c *tls.Config) {
	s, c = serverConfig(), clientConfig()
	both(server)(s)
	both(client)(c)
	c.RootCAs = poolOf(s.Certificates[0])
	return s, c
}

// both makes several changes.
func both(changes ...func(*tls.Config)) func(*tls.Config) {
	return func(c *tls.Config) {
		for _, change := range changes {
			if change != nil {
				change(c)
			}
		}
	}
}

func cached(c *tls.Config)     { c.ClientSessionCache = tls.NewLRUClientSessionCache(1) }
func noTickets(c *tls.Config)  { c.SessionTicketsDisabled = true }
func identified(c *tls.Config) { c.Certificates = []tls.Certificate{testCertificate()} }

func curves(id tls.CurveID) func(*tls.Config) {
	return func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{id} }
}

// clientAuth asks for a certificate and knows that of identified.
func clientAuth(kind tls.ClientAuthType) func(*tls.Config) {
	return func(c *tls.Config) { c.ClientAuth, c.ClientCAs = kind, poolOf(testCertificate()) }
}

// certified gives an identity with so many certificates more in the chain.
func certified(identity func() tls.Certificate, more int) func(*tls.Config) {
	return func(c *tls.Config) {
		certificate := identity()
		chain := certificate.Certificate
		for range more {
			chain = append(chain[:len(chain):len(chain)], chain[0])
		}
		certificate.Certificate = chain
		c.Certificates = []tls.Certificate{certificate}
	}
}

// forged signs with what is not the key of its certificate.
func forged(c *tls.Config) {
	certificate := testCertificate()
	certificate.PrivateKey = forger{certificate.PrivateKey.(crypto.Signer)}
	c.Certificates = []tls.Certificate{certificate}
}

type forger struct{ crypto.Signer }

func (f forger) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := f.Signer.Sign(random, digest, opts)
	if err == nil {
		signature[len(signature)-1] ^= 1
	}
	return signature, err
}

func poolOf(certificate tls.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(certificate.Leaf)
	return pool
}

var (
	rsaIdentity = identity(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })

	p384Identity = identity(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) })

	ed25519Identity = identity(func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	})

	// largeIdentity has a certificate of about 20 KiB.
	largeIdentity = identity(testutil.NewKey, largeNames()...)

	// testCertificate is what servers have if nothing else is said.
	testCertificate = identity(testutil.NewKey)
)

func largeNames() (names []string) {
	for i := range 930 {
		names = append(names, fmt.Sprintf("%03d.large.ktls.test", i))
	}
	return names
}

// identity makes, once, a key and a certificate for the names of the tests and more.
func identity(newKey func() (crypto.Signer, error), names ...string) func() tls.Certificate {
	return sync.OnceValue(func() tls.Certificate {
		key, err := newKey()
		if err != nil {
			panic(err)
		}
		certificate, err := testutil.Certify(key, append([]string{testName, echName}, names...)...)
		if err != nil {
			panic(err)
		}
		return certificate
	})
}

// echName is what the outer ClientHello asks for.
const echName = "outer.ktls.test"

// An echKey is a key for Encrypted ClientHello with its ECHConfig.
type echKey struct {
	private *ecdh.PrivateKey
	config  []byte
}

var (
	knownECH   = sync.OnceValue(func() echKey { return newECHKey(1) })
	unknownECH = sync.OnceValue(func() echKey { return newECHKey(2) })
)

// newECHKey makes a key and lays out its ECHConfig (RFC 9849, section 4).
func newECHKey(id byte) echKey {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	contents := append([]byte{id, 0, 0x20, 0, 32}, private.PublicKey().Bytes()...) // DHKEM(X25519, HKDF-SHA256)
	contents = append(contents, 0, 4, 0, 1, 0, 1)                                  // HKDF-SHA256, AES-128-GCM
	contents = append(contents, 0, byte(len(echName)))                             // no maximum_name_length
	contents = append(contents, echName...)
	contents = append(contents, 0, 0) // no extensions
	config := binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(contents)))
	return echKey{private, append(config, contents...)}
}

func (k echKey) offer(c *tls.Config) {
	list := binary.BigEndian.AppendUint16(nil, uint16(len(k.config)))
	c.EncryptedClientHelloConfigList = append(list, k.config...)
}

func echServer(c *tls.Config) {
	k := knownECH()
	c.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{{Config: k.config, PrivateKey: k.private.Bytes()}}
}

func echKnown(c *tls.Config) { knownECH().offer(c) }

// echUnknown has the key of another server. That is no use without a
// certificate for the outer name.
func echUnknown(c *tls.Config) { unknownECH().offer(c) }

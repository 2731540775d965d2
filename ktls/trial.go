package ktls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
)

// A Trial is the result of a TLS connection with one version and cipher.
type Trial struct {
	Version uint16 // of TLS, as in crypto/tls
	Cipher  string // such as AES-128-GCM

	// Err is nil if crypto/tls could read what the kernel had encrypted. It matches
	// errors.ErrUnsupported if the kernel does not support the cipher, or crypto/tls does not
	// in FIPS mode. Any other error means a fault.
	Err error

	Inert    bool // Err says that a key was taken and nothing encrypted, as in a sandbox
	SendFile bool // a part of the running program went out by sendfile(2)
	Rekey    bool // the key was replaced (KeyUpdate, RFC 8446, section 4.6.3)
}

// trialTimeout limits one Trial.
const trialTimeout = 20 * time.Second

// Check is a thorough [Probe]. For each version and cipher it opens a TLS connection over
// loopback, offloads it, and compares what a client of crypto/tls receives. It returns a
// Trial for each combination, even where nothing works. It uses Probe's result for this
// process, and does not renew it.
func Check() []Trial {
	var trials []Trial
	_, unavailable := Probe()
	certificate, certificateErr := trialCertificate()
	for i := range suites {
		s := &suites[i]
		// The kind of certificate makes no difference to the kernel.
		if i > 0 && s.version == suites[i-1].version && s.kernel == suites[i-1].kernel {
			continue
		}
		t := Trial{Version: s.version, Cipher: s.cipher()}
		switch {
		case unavailable != nil:
			t.Err = unavailable
		case fips140.Enabled() && s.kernel == cipherChaCha20Poly1305:
			t.Err = fmt.Errorf("ktls: %w: crypto/tls does not use the cipher in FIPS mode", errors.ErrUnsupported)
		case certificateErr != nil:
			t.Err = fmt.Errorf("ktls: make certificate: %w", certificateErr)
		default:
			t.Err = t.run(s, certificate, nil)
		}
		t.Inert = errors.Is(t.Err, errInert)
		trials = append(trials, t)
	}
	return trials
}

const trialName = "ktls.invalid"

// trialCertificate makes a self-signed certificate.
func trialCertificate() (certificate tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{trialName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return certificate, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// trialServer returns a Server that negotiates one suite.
func trialServer(s *suite, certificate tls.Certificate, decided func(*Conn, Decision)) *Server {
	return NewServer(&tls.Config{
		Certificates:           []tls.Certificate{certificate},
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			// crypto/tls has no option for the suites of TLS 1.3. But it will choose from
			// this very list. send checks that it did.
			for i := range hello.CipherSuites {
				hello.CipherSuites[i] = s.id
			}
			return nil, nil
		},
	}, &Options{OffloadAll: true, Decided: decided})
}

func (t *Trial) run(s *suite, certificate tls.Certificate, prepare func(*Server)) error {
	near, far, err := loopback()
	if err != nil {
		return fmt.Errorf("ktls: trial: %w", err)
	}
	defer near.Close()
	defer far.Close()
	deadline := time.Now().Add(trialTimeout)
	_ = near.SetDeadline(deadline)
	_ = far.SetDeadline(deadline)

	var refusal error
	server := trialServer(s, certificate, func(_ *Conn, d Decision) { refusal = d.Err })
	if prepare != nil {
		prepare(server)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	client := tls.Client(near, &tls.Config{
		RootCAs: roots, ServerName: trialName, MaxVersion: s.version, CipherSuites: []uint16{s.id},
	})

	var want []byte
	sent := make(chan error, 1)
	go func() {
		conn := server.Conn(far)
		var err error
		want, err = t.send(conn, s)
		if state := conn.State(); err == nil && state != Offloaded {
			err = notOffloaded(state, refusal)
		}
		sent <- errors.Join(err, conn.Close())
	}()
	got, err := io.ReadAll(client)
	sendErr := <-sent
	switch {
	case sendErr != nil:
		return sendErr
	case err != nil:
		return fmt.Errorf("ktls: trial: receive: %w", err)
	case !bytes.Equal(got, want):
		return fmt.Errorf("ktls: trial: the client received different data than was sent (%d bytes received, %d sent)", len(got), len(want))
	}
	return nil
}

func notOffloaded(state State, refusal error) error {
	switch {
	case state == Cipher:
		return fmt.Errorf("ktls: %w: the kernel does not support the cipher", errors.ErrUnsupported)
	case refusal != nil:
		return fmt.Errorf("ktls: connection is not offloaded: %v: %w", state, refusal)
	}
	return fmt.Errorf("ktls: connection is not offloaded: %v", state)
}

// send sends in each way that there is, and returns what the client should receive.
func (t *Trial) send(c *Conn, s *suite) (body []byte, err error) {
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	if got := c.ConnectionState().CipherSuite; got != s.id {
		return nil, fmt.Errorf("ktls: trial: crypto/tls has chosen %s", tls.CipherSuiteName(got))
	}
	write := func(b byte) error {
		body = append(body, b)
		_, err := c.Write([]byte{b})
		return err
	}
	// The first write offloads the connection.
	if err := write('a'); err != nil || c.State() != Offloaded {
		return body, err
	}
	if err := write('b'); err != nil {
		return nil, err
	}
	if err := t.replaceKey(c); err != nil {
		return nil, err
	}
	part, err := t.sendProgram(c)
	if err != nil {
		return nil, err
	}
	body = append(body, part...)
	// The last write ends the record that sendfile may have left open.
	err = write('z')
	return body, err
}

func (t *Trial) replaceKey(c *Conn) error {
	c.lock()
	defer c.unlock()
	if t.Version < tls.VersionTLS13 || !c.renewal.can {
		return nil
	}
	err := c.updateKey()
	t.Rekey = err == nil
	return err
}

// sendProgram sends a part of the running program, because its file exists anyway.
func (t *Trial) sendProgram(c *Conn) ([]byte, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	part := make([]byte, 3*maxPayload+1)
	n, err := f.ReadAt(part, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil
	}
	c.lock()
	defer c.unlock()
	sent, err := c.kernel.sendFile(filerange.Segment{File: f, Len: int64(n)}, c)
	c.out.open = sent < int64(n)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, nil // the file system can't
	}
	t.SendFile = err == nil && sent > 0
	return part[:sent], err
}

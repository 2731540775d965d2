package browser_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"image"
	"image/png"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

//go:embed page.html
var page []byte

// A site is what Caddy serves, with what the page has to find there.
type site struct {
	program   string // Caddy
	dir       string // www, the Caddyfile and the certificate
	publicKey string // of the certificate, as Chromium wants it
	images    []image.Point
	bodies    []string // hashes
	video     []byte
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), program: filepath.Join(t.TempDir(), "caddy")}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", s.program, "../../cmd/caddy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Caddy: %v\n%s", err, out)
	}
	s.add(t, "Caddyfile", []byte(caddyfile))
	s.addCertificate(t)
	s.add(t, "www/index.html", page)
	noise := mathrand.NewChaCha8([32]byte{'i'})
	for i := range images {
		// Noise does not compress: 18 to 77 KiB.
		img := image.NewGray(image.Rect(0, 0, 150+i, 120+i*21/20))
		_, _ = noise.Read(img.Pix) // never fails
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		s.images = append(s.images, img.Rect.Max)
		s.add(t, fmt.Sprintf("www/images/%d.png", i), b.Bytes())
		s.bodies = append(s.bodies, hash(b.Bytes()))
	}
	s.video = videoFile()
	s.add(t, "www/video.mp4", s.video)
	s.bodies = append(s.bodies, hash(s.video))
	return s
}

func (s *site) add(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// addCertificate makes the site's certificate, and notes by what Chromium is to
// know it.
func (s *site) addCertificate(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s.add(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	s.add(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	sum := sha256.Sum256(public)
	s.publicKey = base64.StdEncoding.EncodeToString(sum[:])
}

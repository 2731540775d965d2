package integration_test

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"image"
	"image/png"
	mathrand "math/rand/v2"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

//go:embed browser/page.html
var page []byte

// A webSite is what Caddy serves, with what the page has to find there.
type webSite struct {
	dir       string // www, the Caddyfile and the certificate
	publicKey string // of the certificate, as Chromium wants it
	images    []image.Point
	bodies    []string // hashes
	video     []byte
}

func newWebSite(t *testing.T) *webSite {
	t.Helper()
	s := &webSite{dir: t.TempDir()}
	files := harness.Root(s.dir)
	files.AddContent(t, "Caddyfile", []byte(browserSite))
	s.addCertificate(t, files)
	files.AddContent(t, "www/index.html", page)
	noise := mathrand.NewChaCha8([32]byte{'i'})
	for i := range images {
		// Noise does not compress: 18 to 77 KiB.
		img := image.NewGray(image.Rect(0, 0, 150+i, 120+i*21/20))
		_, _ = noise.Read(img.Pix) // never fails
		var b bytes.Buffer
		testutil.Must(t, png.Encode(&b, img))
		s.images = append(s.images, img.Rect.Max)
		files.AddContent(t, fmt.Sprintf("www/images/%d.png", i), b.Bytes())
		s.bodies = append(s.bodies, hash(b.Bytes()))
	}
	s.video = videoFile()
	files.AddContent(t, "www/video.mp4", s.video)
	s.bodies = append(s.bodies, hash(s.video))
	return s
}

// hash is what the page calls a body's sum.
func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// addCertificate makes the site's certificate, and notes by what Chromium is to
// know it.
func (s *webSite) addCertificate(t *testing.T, files harness.Root) {
	t.Helper()
	certificate := testutil.SelfSigned(t, "localhost")
	public, private := testutil.PEM(t, certificate)
	files.AddContent(t, "cert.pem", public)
	files.AddContent(t, "key.pem", private)
	sum := sha256.Sum256(certificate.Leaf.RawSubjectPublicKeyInfo)
	s.publicKey = base64.StdEncoding.EncodeToString(sum[:])
}

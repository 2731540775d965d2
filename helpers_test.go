package caddyktls

import (
	"io"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// testCertificate returns the files of a certificate for 127.0.0.1 and its key,
// and a client that trusts it.
func testCertificate(t testing.TB) (client *http.Client, certificate, key string) {
	t.Helper()
	config, client := testutil.TLSConfig()
	public, private := testutil.PEM(t, config.Certificates[0])
	return client, testutil.TempFile(t, public), testutil.TempFile(t, private)
}

// wantBody asks for a body and compares it.
func wantBody(t testing.TB, client *http.Client, url string, want []byte) {
	t.Helper()
	response, err := client.Get(url)
	testutil.Must(t, err)
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	testutil.Must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Errorf("GET %s: %s", url, response.Status)
	}
	testutil.SameBody(t, got, want)
}

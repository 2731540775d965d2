package testutil

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Body returns n bytes that do not compress. No two offsets have the same bytes. The
// bytes are the same each time, and others for another n or other seeds.
func Body(n int, seeds ...any) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append([]byte{}, n, seeds))).Read(b) // never fails
	return b
}

// SameBody fails the test unless the body received is the body sent.
func SameBody(t testing.TB, got, want []byte) {
	t.Helper()
	if g, w := sha256.Sum256(got), sha256.Sum256(want); g == w {
		return
	}
	n := 0
	for n < min(len(got), len(want)) && got[n] == want[n] {
		n++
	}
	t.Errorf("got %d bytes, want %d, which differ from offset %d on", len(got), len(want), n)
}

// Respond writes a body to a response, and returns its length. The body is nothing, a
// text, a large file, which has size bytes, or a small file, which has one byte less.
func Respond(t testing.TB, w http.ResponseWriter, body string, size int) int64 {
	t.Helper()
	switch body {
	case "nothing":
		return 0
	case "text":
		n, err := w.Write([]byte("a text"))
		Must(t, err)
		return int64(n)
	case "small file":
		size--
	case "large file":
	default:
		t.Fatalf("no body: %q", body)
	}
	file := OpenFile(t, make([]byte, size))
	http.ServeContent(w, httptest.NewRequest(http.MethodGet, "/", nil), file.Name(), time.Time{}, file)
	return int64(size)
}

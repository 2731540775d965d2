package fileserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// Handlers that copy files in other ways than http.ServeContent does: between
// other bytes, in pieces, from several places, behind a flush. With every length
// of Caddy's parts the client gets what the handler has sent, and no more.
func TestMixedBodies(t *testing.T) {
	testutil.RequireKernelTLS(t, ktls.Probe)
	const size = 3 << 20
	name, body := randomFile(t, size)
	otherName, other := randomFile(t, 1<<20)
	separator := []byte("--------")
	for _, tt := range []struct {
		name  string
		flush bool // the header, first
		want  []byte
		serve func(w http.ResponseWriter, f, other *os.File) error
	}{
		{"file", false, body, func(w http.ResponseWriter, f, _ *os.File) error {
			_, err := io.Copy(w, f)
			return err
		}},
		{"file behind a flush", true, body, func(w http.ResponseWriter, f, _ *os.File) error {
			_, err := io.Copy(w, f)
			return err
		}},
		{"two files with a separator", false, bytes.Join([][]byte{body, other}, separator),
			func(w http.ResponseWriter, f, other *os.File) error {
				if _, err := io.Copy(w, f); err != nil {
					return err
				}
				if _, err := w.Write(separator); err != nil {
					return err
				}
				_, err := io.Copy(w, other)
				return err
			}},
		{"part of a file, then another file", false, append(body[:1<<20:1<<20], other...),
			func(w http.ResponseWriter, f, other *os.File) error {
				if _, err := io.CopyN(w, f, 1<<20); err != nil {
					return err
				}
				_, err := io.CopyN(w, other, 1<<20)
				return err
			}},
		{"parts of a file, backwards", false, append(body[2<<20:], body[:1<<20]...),
			func(w http.ResponseWriter, f, _ *os.File) error {
				for _, offset := range []int64{2 << 20, 0} {
					if _, err := f.Seek(offset, io.SeekStart); err != nil {
						return err
					}
					if _, err := io.CopyN(w, f, 1<<20); err != nil {
						return err
					}
				}
				return nil
			}},
		{"separator first", false, append(separator[:8:8], body...),
			func(w http.ResponseWriter, f, _ *os.File) error {
				if _, err := w.Write(separator); err != nil {
					return err
				}
				_, err := io.Copy(w, f)
				return err
			}},
	} {
		for _, idle := range []time.Duration{0, time.Minute} {
			for _, part := range []int{4096, 5000, 64 << 10, 1_050_000, 2_100_000} {
				if idle == 0 && part != 4096 {
					continue // parts are the idle timeouts'
				}
				t.Run(fmt.Sprintf("%s/%v/%d", tt.name, idle, part), func(t *testing.T) {
					s := newSite(t, part, idle, func(w http.ResponseWriter, r *http.Request) {
						f, err := os.Open(name)
						if err != nil {
							t.Error(err)
							return
						}
						defer f.Close()
						g, err := os.Open(otherName)
						if err != nil {
							t.Error(err)
							return
						}
						defer g.Close()
						w.Header().Set("Content-Length", fmt.Sprint(len(tt.want)))
						if tt.flush {
							_ = http.NewResponseController(w).Flush()
						}
						if err := tt.serve(w, f, g); err != nil {
							t.Error(err)
						}
					})
					// The second request finds the connection offloaded.
					for range 2 {
						s.sent.Store(0)
						_, got, err := s.get(t)
						if err != nil || !bytes.Equal(got, tt.want) {
							t.Errorf("got %d bytes of %d, %v; they are right: %v", len(got), len(tt.want), err,
								bytes.HasPrefix(tt.want, got))
						}
						if sent := int(s.sent.Load()); part > 5000 && sent < len(tt.want)/2 {
							t.Errorf("sendfile sent %d", sent)
						}
					}
				})
			}
		}
	}
}

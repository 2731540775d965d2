package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Small responses that follow a large one go through the kernel too; those
// before it do not, and the connection is kept.
func TestKeepAlive(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	small := c.Root.AddFile(t, "small", 1000)
	medium := c.Root.AddFile(t, "medium", 30<<10)
	big := c.Root.AddFile(t, "big", harness.Large)
	empty := c.Root.AddFile(t, "empty", 0)
	c.Start(t, harness.FileSite)
	before := c.Metrics(t)
	client := c.Client(t, nil)
	sequence := []struct {
		path string
		file harness.File
	}{
		{"/small", small}, {"/medium", medium}, {"/big", big}, {"/small", small}, {"/empty", empty}, {"/big", big},
		{"/big", big}, {"/medium", medium}, {"/small", small}, {"/big", big},
	}
	sendfile := harness.Counts{"connections:offloaded": 1}
	for i, step := range sequence {
		harness.WantFile(t, client, c.URL(step.path), step.file)
		if step.file.Size >= harness.MinSize {
			sendfile["responses:sendfile"]++
			sendfile["sendfile_bytes"] += step.file.Size
		}
		if t.Failed() {
			t.Fatalf("request %d, %s", i, step.path)
		}
	}
	client.CloseIdleConnections()
	c.Expect(t, before, sendfile)
}

func TestPipelined(t *testing.T) {
	harness.RequireKernelTLS(t)
	c := harness.NewCaddy(t)
	small := c.Root.AddFile(t, "small", 1000)
	big := c.Root.AddFile(t, "big", harness.Large)
	c.Start(t, harness.FileSite)
	before := c.Metrics(t)
	conn := c.Dial(t, c.TLSConfig(t))
	sequence := []struct {
		path string
		file harness.File
	}{
		{"/small", small}, {"/big", big}, {"/big", big}, {"/small", small}, {"/big", big}, {"/small", small},
	}
	var requests strings.Builder
	for _, step := range sequence {
		requests.WriteString(harness.RequestText(step.path))
	}
	_, err := io.WriteString(conn, requests.String())
	testutil.Must(t, err)
	reader := bufio.NewReader(conn)
	for _, step := range sequence {
		harness.WantBody(t, harness.ReadResponse(t, reader), http.StatusOK, step.file.Digest)
	}
	_ = conn.Close()
	c.Expect(t, before, harness.SentTimes(1, 3, 3*harness.Large))
}

func TestParallel(t *testing.T) {
	harness.RequireKernelTLS(t)
	const downloads, rounds = 8, 2
	c := harness.NewCaddy(t)
	var files []harness.File
	for i := range downloads {
		files = append(files, c.Root.AddFile(t, fmt.Sprint(i), harness.Large+int64(i)*10_007))
	}
	c.Start(t, harness.FileSite)
	before := c.Metrics(t)
	want := harness.Counts{"connections:offloaded": downloads, "responses:sendfile": downloads * rounds}
	var all sync.WaitGroup
	for i, f := range files {
		want["sendfile_bytes"] += rounds * f.Size
		client := c.Client(t, nil)
		all.Go(func() {
			defer client.CloseIdleConnections()
			for range rounds {
				resp, err := harness.Try(t, client, http.MethodGet, c.URL(fmt.Sprintf("/%d", i)))
				if err != nil {
					t.Error(err)
					return
				}
				harness.WantBody(t, resp, http.StatusOK, f.Digest)
			}
		})
	}
	all.Wait()
	c.Expect(t, before, want)
}

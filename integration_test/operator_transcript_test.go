package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/integration_test/results"
	"github.com/caddy-ktls/caddy-ktls/internal/telemetry"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// TestTranscript does what a user does who tries the module, by commands in a
// shell. docs/transcript.md is what it writes, and what
// TestTranscriptWithoutKernelTLS does. All of it has to be the same each time.
func TestTranscript(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "curl")
	s := newTranscript(t)
	s.say(`# Transcript

What one sees who tries the module: commands as root, and all that they print, on the Debian kernel 6.12 in a virtual machine. A test runs the commands, and only the kernel's exact version is left out. ` + "`make docs`" + ` writes this document; ` + "`make test`" + ` fails if it is not what the test finds.

## With kernel TLS

Does kernel TLS work on this machine? Whoever loads the module by hand is told that it will be gone after the next boot.`)
	s.show(t, `caddy ktls check`)

	s.say("A site with the directive `ktls`, and a large file. With `debug` the log has a line for each connection.")
	s.show(t, `mkdir site`, `seq 2000000 >site/large.txt`, `cat >Caddyfile <<EOF
{
	debug
	skip_install_trust
}
https://localhost {
	ktls
	root site
	file_server
}
EOF`, `caddy start >caddy.log 2>&1`)
	t.Cleanup(func() {
		_ = s.shell(`caddy stop`).Run()
		s.Log.Inspect(t)
	})
	testutil.Eventually(t, "Caddy serves", s.Ready)
	taken := harness.TLSStat(t, "TlsTxSw")

	s.say("The file, over HTTP/1.1 and over HTTP/2. The three hashes are the same.")
	const form = `-w 'HTTP/%{http_version}, status %{http_code}, %{size_download} bytes\n'`
	sums := s.show(t,
		`curl -sk --http1.1 --output one.txt `+form+` https://localhost/large.txt`,
		`curl -sk --http2 --output two.txt `+form+` https://localhost/large.txt`,
		`sha256sum site/large.txt one.txt two.txt`)
	large := harness.NewDigester()
	for i := 1; i <= 2_000_000; i++ {
		_, _ = fmt.Fprintln(large, i) // never fails
	}
	if n := strings.Count(sums, fmt.Sprintf("%x  ", large.Digest().Sum)); n != 3 {
		t.Errorf("%d files are right, want 3:\n%s", n, sums)
	}
	testutil.Eventually(t, "the connections have ended", func() error { return s.hasSent(t, 2*large.Digest().Size) })
	if n := harness.TLSStat(t, "TlsTxSw") - taken; n != 2 {
		t.Errorf("the kernel has taken %d connections, want 2", n)
	}

	s.say("Both connections were offloaded, and both files went out by sendfile.")
	s.show(t, `caddy ktls status`)
	s.say("The metrics of the server say the same. Those that are 0 are left out here.")
	s.show(t, `curl -s localhost:2019/metrics | grep '^caddy_ktls.*srv0' | grep -v ' 0$'`)
	s.write(t)
}

// TestTranscriptWithoutKernelTLS is the second part.
func TestTranscriptWithoutKernelTLS(t *testing.T) {
	harness.RequireNoKernelTLS(t)
	s := newTranscript(t)
	s.say(`## Without kernel TLS

The same kernel without its module ` + "`tls`" + `. The check names the cause, and behind the arrows the remedy.`)
	s.show(t, `caddy ktls check; echo "exit code: $?"`)
	s.write(t)
}

// A transcript is a document with commands and what they print.
type transcript struct {
	*harness.Caddy
	paragraphs []string
}

func newTranscript(t testing.TB) *transcript {
	t.Helper()
	if os.Getenv(results.Env) == "" {
		t.Skip("takes the ports 80, 443 and 2019: runs in virtual machines only")
	}
	s := &transcript{Caddy: harness.NewCaddy(t)}
	s.Log = harness.Log(filepath.Join(s.Dir, "caddy.log"))
	self, err := os.Executable()
	testutil.Must(t, err)
	bin := t.TempDir()
	testutil.Must(t, os.Symlink(self, filepath.Join(bin, "caddy")))
	s.Env = append(s.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	return s
}

func (s *transcript) say(text string) { s.paragraphs = append(s.paragraphs, text) }

func (s *transcript) shell(command string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", command)
	cmd.Env, cmd.Dir = s.Env, s.Dir
	return cmd
}

// show runs commands and adds them with what they print, which it returns.
func (s *transcript) show(t testing.TB, commands ...string) string {
	t.Helper()
	var shown, printed strings.Builder
	for _, command := range commands {
		out, err := s.shell(command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		fmt.Fprintf(&shown, "$ %s\n%s", command, out)
		printed.Write(out)
	}
	s.say("```console\n" + shown.String() + "```")
	return printed.String()
}

// hasSent returns what is missing until that many bytes are sent, and all
// connections have ended.
func (s *transcript) hasSent(t testing.TB, size int64) error {
	t.Helper()
	out, complaint, _ := s.Command(t, "ktls", "status", "--json")
	var status telemetry.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("%w\n%s%s", err, out, complaint)
	}
	for _, server := range status.Servers {
		if server.OffloadedNow == 0 && server.SendfileBytes+server.CopiedBytes["remainder"] == size {
			return nil
		}
	}
	return fmt.Errorf("%s", out)
}

// write leaves the document, without what differs among builds of a kernel.
func (s *transcript) write(t testing.TB) {
	t.Helper()
	out, err := s.shell("uname -r").Output()
	testutil.Must(t, err)
	release := strings.TrimSpace(string(out))
	version := strings.Join(strings.SplitN(release, ".", 3)[:2], ".")
	text := strings.Join(s.paragraphs, "\n\n") + "\n"
	results.Write(t, results.Transcript, strings.ReplaceAll(text, release, version))
}

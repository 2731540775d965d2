package integration_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// notRun are the commands in README.md and docs/ that TestCommands does not run,
// by the first line of their block, and why.
var notRun = map[string]string{
	// README.md
	"make run":           "builds; TestFirstMinutes does what it says it shows",
	"make test":          "runs this test",
	"modprobe tls":       "needs a machine that boots; where the tests run, the module is loaded",
	"ktls [<matcher>] {": "is no command, but the syntax",
	"stock Caddy     page cache ──copy──▶ Caddy encrypts ──copy──▶ network":                 "is a picture",
	"$ caddy ktls check        # before there is a configuration: does the kernel have it?": "TestCheck, TestStatusCommand and TestBench run the three",
	"go install github.com/caddyserver/xcaddy/cmd/xcaddy@latest":                            "builds, and loads programs from the network: TestXcaddy",

	// docs/
	"dpkg-divert --divert /usr/bin/caddy.default --rename /usr/bin/caddy": "needs the package caddy, and systemd",
	"curl -sk --http1.1 -o /dev/null https://localhost:8443/large.bin":    "TestFirstMinutes",
	"go run ./examples/xaccel": "TestAuthorisedDownloadPage runs that program",
	"curl -f -u alice:rabbit -o large.bin https://example.com/alice/large.bin": "TestAuthorisedDownloadPage",
	"caddy adapt --config /etc/caddy/Caddyfile |":                              "needs jq: TestDocsScaling",
	"systemctl daemon-reload":                                                  "needs systemd",
	"docker build -f xcaddy.Dockerfile -t caddy-ktls .":                        "needs Docker and the network",
	`docker run -d --name caddy -p 80:80 -p 443:443 -p 443:443/udp \`:          "needs Docker",
	"kubectl apply -f examples/kubernetes.yaml":                                "needs a cluster",
	"ethtool -k eth0 | grep tls-hw-tx-offload":                                 "needs ethtool and a network card",
	"ethtool -K eth0 tls-hw-tx-offload on":                                     "needs ethtool and a network card",
	"curl -s localhost:2019/metrics | grep ^caddy_ktls":                        "TestMetricsCommand",
	"caddy ktls bench": "takes minutes in an emulated machine; TestBench",
}

// commands returns the blocks of commands in all pages, by their first line.
// README.md has them indented.
func commands(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	add := func(block string) {
		first, _, _ := strings.Cut(block, "\n")
		found[first] = block
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	for _, page := range pages {
		for _, block := range harness.Blocks(t, "docs/"+filepath.Base(page), "sh") {
			add(block)
		}
	}
	for _, text := range testutil.ReadPage(t, "../README.md").Text {
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			if paragraph = strings.Trim(paragraph, "\n"); strings.HasPrefix(paragraph, "    ") {
				add(strings.ReplaceAll(strings.TrimPrefix(paragraph, "    "), "\n    ", "\n"))
			}
		}
	}
	return found
}

// Each command in README.md and docs/ is run, and has to succeed and print
// something, or is in notRun.
func TestCommands(t *testing.T) {
	found := commands(t)
	for first := range notRun {
		if _, ok := found[first]; !ok {
			t.Errorf("notRun names a block that no page has: %s", first)
		}
	}
	for first, block := range found {
		t.Run(first, func(t *testing.T) {
			if why := notRun[first]; why != "" {
				t.Logf("not run here: %s", why)
				return
			}
			if strings.Contains(first, "/proc/") {
				harness.RequireRealKernel(t, "reads what the fake does not have")
			}
			harness.RequireKernelTLS(t)
			if output := shell(t, "", block); output == "" {
				t.Error("it prints nothing")
			}
		})
	}
}

func shell(t testing.TB, dir, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*testutil.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", script)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, &stderr)
	}
	return string(output)
}

// What `make run` serves, and README.md's commands show what it says they show.
func TestFirstMinutes(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "curl")
	c := harness.NewCaddy(t)
	c.Root = harness.Root(filepath.Join(c.Dir, "site"))
	c.Root.AddFile(t, "large.bin", 100<<20)
	c.StartExactly(t, harness.Source(t, "examples/run.Caddyfile"), func() error { return listensWithTLS("8443") })

	found := commands(t)
	output := shell(t, c.Dir, found["curl -sk --http1.1 -o /dev/null https://localhost:8443/large.bin"])
	for line := range strings.Lines(testutil.ReadFile(t, "../docs/troubleshooting.md")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "caddy_ktls_") && !slices.Contains(strings.Split(output, "\n"), line) {
			t.Errorf("no line %q in\n%s", line, output)
		}
	}
	status, complaint, code := c.Command(t, "ktls", "status", "--address", "localhost:8444")
	if code != 0 || !strings.Contains(status, "offloaded 1") {
		t.Errorf("exit code %d\n%s%s", code, status, complaint)
	}
}

// listensWithTLS returns an error until somebody serves TLS at a port.
func listensWithTLS(port string) error {
	conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	if err == nil {
		err = conn.Close()
	}
	return err
}

// A Caddy with its admin endpoint where it is by default shows the metrics there.
func TestMetricsCommand(t *testing.T) {
	harness.RequireKernelTLS(t)
	harness.RequireProgram(t, "curl")
	c := harness.NewCaddy(t)
	f := c.Root.AddFile(t, "f", harness.Large)
	c.StartExactly(t, `
{
	skip_install_trust
	auto_https disable_redirects
	default_bind 127.0.0.1
}
`+harness.FileSite, func() error { return listensWithTLS(c.Port) })
	c.WantFile(t, "/f", f)
	const command = "curl -s localhost:2019/metrics | grep ^caddy_ktls"
	want := `caddy_ktls_responses_total{outcome="sendfile",server="srv0"} 1`
	if output := shell(t, "", commands(t)[command]); !strings.Contains(output, want) {
		t.Errorf("no %q in\n%s", want, output)
	}
}

package integration_test

import (
	"encoding/json"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/integration_test/harness"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// A checkResult is what `caddy ktls check --json` prints.
type checkResult struct {
	Works   bool   `json:"works"`
	Verdict string `json:"verdict"`
	OS      string `json:"os"`
	Kernel  struct {
		Release string            `json:"release"`
		Version string            `json:"version"`
		FIPS    *bool             `json:"fips"`
		Faults  []json.RawMessage `json:"faults"`
	} `json:"kernel"`
	Go struct {
		Version string            `json:"version"`
		FIPS    *bool             `json:"fips"`
		Faults  []json.RawMessage `json:"faults"`
	} `json:"go"`
	Container *string `json:"container"`
	Module    struct {
		State         string `json:"state"`
		LoadedByCheck *bool  `json:"loaded_by_check"`
		AtBoot        *bool  `json:"at_boot"`
	} `json:"module"`
	Ciphers []struct {
		TLS      string `json:"tls"`
		Cipher   string `json:"cipher"`
		Works    bool   `json:"works"`
		SendFile bool   `json:"sendfile"`
		Rekey    bool   `json:"rekey"`
		Error    string `json:"error"`
	} `json:"ciphers"`
	HTTP []struct {
		Protocol string `json:"protocol"`
		Fault    string `json:"fault"`
		Copied   bool   `json:"copied"`
	} `json:"http"`
	Interfaces      []string `json:"interfaces"`
	FileDescriptors int      `json:"file_descriptors"`
	Lines           []struct {
		Topic string   `json:"topic"`
		State string   `json:"state"`
		Text  string   `json:"text"`
		Todo  []string `json:"todo"`
	} `json:"lines"`
}

// check runs the check in both forms and compares the verdicts.
func check(t testing.TB, c *harness.Caddy) (text string, result checkResult, code int) {
	t.Helper()
	text, complaint, code := c.Command(t, "ktls", "check")
	t.Log(text)
	if complaint != "" {
		t.Errorf("the check complains: %s", complaint)
	}
	out, complaint, jsonCode := c.Command(t, "ktls", "check", "--json")
	if complaint != "" || jsonCode != code {
		t.Errorf("with --json exit code %d, want %d; complaint: %s", jsonCode, code, complaint)
	}
	decoder := json.NewDecoder(strings.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if !strings.HasSuffix(text, "\nverdict: "+result.Verdict+"\n") {
		t.Errorf("the last line is not the verdict %q", result.Verdict)
	}
	if result.Container == nil || result.Module.AtBoot == nil || result.Module.LoadedByCheck == nil ||
		result.Kernel.FIPS == nil || result.Kernel.Faults == nil || result.Go.Version != runtime.Version() || result.Go.FIPS == nil || result.Go.Faults == nil ||
		result.Interfaces == nil || result.HTTP == nil || len(result.HTTP) > 0 || len(result.Ciphers) != 6 || len(result.Lines) == 0 {
		t.Errorf("facts are missing:\n%s", out)
	}
	return text, result, code
}

func TestCheck(t *testing.T) {
	harness.RequireRealKernel(t, "looks for the module, and counts what Probe tries")
	harness.RequireKernelTLS(t)
	before := harness.TLSStat(t, "TlsTxSw")
	text, result, code := check(t, harness.NewCaddy(t))
	if code != 0 || !result.Works || result.Verdict != "kernel TLS works here" {
		t.Errorf("exit code %d, %+v", code, result)
	}
	// Twice: each time 6 that only try the key, and 6 whole connections.
	if n := harness.TLSStat(t, "TlsTxSw") - before; n != 24 {
		t.Errorf("%d connections were moved to the kernel, want 24", n)
	}
	if state := result.Module.State; state != "loaded" && state != "built_in" {
		t.Errorf("module %s", state)
	}
	if !testutil.Required() {
		return // a kernel with some ciphers is fine
	}
	canRekey := regexp.MustCompile(`^(6\.1[4-9]|6\.[2-9]\d|[7-9]\.)`).MatchString(result.Kernel.Release)
	for _, c := range result.Ciphers {
		if !c.Works || !c.SendFile || c.Rekey != (canRekey && c.TLS == "1.3") || c.Error != "" {
			t.Errorf("Linux %s: %+v", result.Kernel.Release, c)
		}
	}
	for _, version := range []string{"1.3", "1.2"} {
		if want := "\nTLS " + version + "     ok    AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305\n"; !strings.Contains(text, want) {
			t.Errorf("no line %q", want)
		}
	}
}

func TestCheckWithoutKernelTLS(t *testing.T) {
	harness.RequireNoKernelTLS(t)
	text, result, code := check(t, harness.NewCaddy(t))
	if code != 1 || result.Works || !strings.HasPrefix(result.Verdict, "no kernel TLS: ") {
		t.Errorf("exit code %d, %+v", code, result)
	}
	for _, want := range []string{"sudo modprobe tls\n", "at boot: echo tls | sudo tee /etc/modules-load.d/tls.conf\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, c := range result.Ciphers {
		if c.Works || c.SendFile || c.Rekey || c.Error == "" {
			t.Errorf("%+v", c)
		}
	}
}

// The command line is as that of Caddy's own commands.
func TestCheckCommandLine(t *testing.T) {
	c := harness.NewCaddy(t)
	for _, test := range []struct {
		name string
		args []string
		code int
		want string // in the output, or in the complaint
	}{
		{"list", []string{"help"}, 0, "\n  ktls "},
		{"parent", []string{"ktls"}, 0, "\n  check "},
		{"help", []string{"ktls", "check", "--help"}, 0, "--json"},
		{"completion of commands", []string{"__complete", "ktls", ""}, 0, "check\tChecks whether"},
		{"completion of flags", []string{"__complete", "ktls", "check", "--j"}, 0, "--json\t"},
		{"unknown command", []string{"ktls", "chekc"}, 1, `unknown command "chekc"`},
		{"argument", []string{"ktls", "check", "now"}, 1, `"now"`},
		{"unknown flag", []string{"ktls", "check", "--jsno"}, 1, "unknown flag"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, code := c.Command(t, test.args...)
			if code != test.code || !strings.Contains(stdout+stderr, test.want) {
				t.Errorf("exit code %d, want %d, and %q in\n%s%s", code, test.code, test.want, stdout, stderr)
			}
		})
	}
}

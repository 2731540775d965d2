package repo_test

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil/caddytest"
)

// parseYAML parses a file's only document, or the one of that kind.
func parseYAML(t testing.TB, file, kind string, v any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(testutil.ReadFile(t, file)))
	for {
		var node yaml.Node
		if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
			t.Fatalf("%s: no %s", file, kind)
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var header struct{ Kind string }
		if err := node.Decode(&header); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if header.Kind == kind {
			if err := node.Decode(v); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			return
		}
	}
}

// The files that the service refers to are there, where the image expects them.
func TestComposeExample(t *testing.T) {
	const file = "examples/compose.yaml"
	var compose struct {
		Services map[string]struct {
			Build          struct{ Context, Dockerfile string }
			Ports, Volumes []string
		}
		Volumes map[string]any
	}
	parseYAML(t, file, "", &compose)
	service := compose.Services["caddy"]
	dir := filepath.Dir(file)
	testutil.ReadFile(t, filepath.Join(dir, service.Build.Context, service.Build.Dockerfile))
	if want := []string{"80:80", "443:443", "443:443/udp"}; !slices.Equal(service.Ports, want) {
		t.Errorf("ports %q, want %q", service.Ports, want)
	}
	targets := map[string]string{}
	for _, volume := range service.Volumes {
		parts := strings.Split(volume, ":")
		targets[parts[1]] = parts[0]
		if _, named := compose.Volumes[parts[0]]; !named && !strings.HasPrefix(parts[0], ".") {
			t.Errorf("volume %s is not declared", parts[0])
		}
	}
	caddyfile := testutil.ReadFile(t, filepath.Join(dir, targets["/etc/caddy/Caddyfile"]))
	for _, target := range []string{"/srv/www", "/data", "/config"} {
		if targets[target] == "" {
			t.Errorf("no volume at %s", target)
		}
	}
	if !strings.Contains(caddyfile, "root /srv/www\n") {
		t.Errorf("the Caddyfile serves another folder:\n%s", caddyfile)
	}
}

// What examples/kubernetes.yaml has, as far as the test looks at it.
type (
	named     struct{ Name string }
	configMap struct {
		Metadata named
		Data     map[string]string
	}
	deployment struct {
		Spec struct {
			Selector struct {
				MatchLabels map[string]string `yaml:"matchLabels"`
			}
			Template struct {
				Metadata struct{ Labels map[string]string }
				Spec     podSpec
			}
		}
	}
	podSpec struct {
		InitContainers []container `yaml:"initContainers"`
		Containers     []container
		Volumes        []struct {
			Name      string
			ConfigMap named                 `yaml:"configMap"`
			HostPath  struct{ Path string } `yaml:"hostPath"`
		}
	}
	container struct {
		Name, Image string
		Command     []string
		Ports       []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		SecurityContext struct {
			Privileged               bool
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"` // true if it is missing
			Capabilities             struct{ Drop, Add []string }
		} `yaml:"securityContext"`
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	service struct {
		Spec struct {
			Selector map[string]string
			Ports    []struct {
				Name       string
				Port       int
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
)

// The objects refer to each other by the names that they have, the Caddyfile is
// valid, and Caddy's own container has no privilege.
func TestKubernetesExample(t *testing.T) {
	const file = "examples/kubernetes.yaml"
	var config configMap
	var deploy deployment
	var svc service
	parseYAML(t, file, "ConfigMap", &config)
	parseYAML(t, file, "Deployment", &deploy)
	parseYAML(t, file, "Service", &svc)

	caddyfile := config.Data["Caddyfile"]
	if err := caddy.Validate(caddytest.Config(t, caddyfile)); err != nil {
		t.Errorf("%v:\n%s", err, caddyfile)
	}
	if !strings.Contains(caddyfile, "root /srv/www\n") {
		t.Errorf("the Caddyfile serves another folder:\n%s", caddyfile)
	}
	labels := deploy.Spec.Template.Metadata.Labels
	if !reflect.DeepEqual(labels, deploy.Spec.Selector.MatchLabels) || !reflect.DeepEqual(labels, svc.Spec.Selector) {
		t.Error("labels and selectors differ")
	}
	pod := &deploy.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatal("not one container of each kind")
	}
	load, serve := &pod.InitContainers[0], &pod.Containers[0]
	if got := pod.mounts(t, serve); got["/etc/caddy"] != config.Metadata.Name || got["/srv/www"] == "" || got["/data"] == "" {
		t.Errorf("Caddy mounts %v", got)
	}
	if mounts := pod.mounts(t, load); mounts["/node"] != "/" || !load.SecurityContext.Privileged ||
		!strings.Contains(strings.Join(load.Command, " "), "chroot /node modprobe tls ||") {
		t.Errorf("%s can't load the module, or ends if it can't: %+v", load.Name, load)
	}
	if s := serve.SecurityContext; s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		!slices.Equal(s.Capabilities.Drop, []string{"ALL"}) || !slices.Equal(s.Capabilities.Add, []string{"NET_BIND_SERVICE"}) {
		t.Errorf("Caddy may do more than it needs: %+v", s)
	}
	wantPorts(t, &svc, serve)
}

// mounts returns what a container mounts where: a ConfigMap, a folder of the host, or
// "other".
func (p *podSpec) mounts(t testing.TB, c *container) map[string]string {
	t.Helper()
	volumes := map[string]string{}
	for _, volume := range p.Volumes {
		volumes[volume.Name] = cmp.Or(volume.ConfigMap.Name, volume.HostPath.Path, "other")
	}
	found := map[string]string{}
	for _, mount := range c.VolumeMounts {
		if volumes[mount.Name] == "" {
			t.Errorf("%s mounts %s, which is no volume", c.Name, mount.Name)
		}
		found[mount.MountPath] = volumes[mount.Name]
	}
	return found
}

// wantPorts checks that container and service have the ports of HTTP and HTTPS.
func wantPorts(t testing.TB, svc *service, c *container) {
	t.Helper()
	ports := map[string]int{}
	for _, port := range c.Ports {
		ports[port.Name] = port.ContainerPort
	}
	for _, port := range svc.Spec.Ports {
		if ports[port.TargetPort] != port.Port {
			t.Errorf("the service's port %d is not the container's port %q", port.Port, port.TargetPort)
		}
	}
	if !reflect.DeepEqual(ports, map[string]int{"http": 80, "https": 443, "metrics": 9180}) {
		t.Errorf("ports %v", ports)
	}
}

// systemd understands the drop-in, and the other file is what modules-load.d(5)
// says.
func TestSystemdExamples(t *testing.T) {
	var modules []string
	for line := range strings.Lines(testutil.ReadFile(t, "examples/systemd/tls.conf")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			modules = append(modules, line)
		}
	}
	if !slices.Equal(modules, []string{"tls"}) {
		t.Errorf("modules %q", modules)
	}

	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"caddy.service":             "[Service]\nExecStart=/bin/true\n",
		"caddy.service.d/ktls.conf": testutil.ReadFile(t, "examples/systemd/ktls.conf"),
	} {
		testutil.WriteFile(t, filepath.Join(dir, name), []byte(content))
	}
	cmd := exec.CommandContext(t.Context(), verify, "verify", filepath.Join(dir, "caddy.service"))
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	if err := cmd.Run(); err != nil || strings.Contains(complaints.String(), "ktls.conf") {
		t.Errorf("%v\n%s", err, &complaints)
	}
}

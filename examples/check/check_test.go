// Package check looks at the examples with the parsers of the programs
// that they are for. It is a module of its own, because those are large.
package check

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Compose takes the file, and knows all its fields.
func TestCompose(t *testing.T) {
	details := types.ConfigDetails{WorkingDir: "..", ConfigFiles: []types.ConfigFile{{Filename: "../compose.yaml"}}}
	project, err := loader.LoadWithContext(t.Context(), details, func(o *loader.Options) { o.SetProjectName("caddy-ktls", true) })
	if err != nil {
		t.Fatal(err)
	}
	service, err := project.GetService("caddy")
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range service.Volumes {
		if volume.Type != types.VolumeTypeBind {
			continue
		}
		if _, err := os.Stat(volume.Source); err != nil {
			t.Error(err)
		}
	}
}

// Kubernetes knows all fields of the objects, and their types.
func TestKubernetes(t *testing.T) {
	file, err := os.ReadFile("../kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	kinds := map[string]func() any{
		"ConfigMap":  func() any { return new(corev1.ConfigMap) },
		"Deployment": func() any { return new(appsv1.Deployment) },
		"Service":    func() any { return new(corev1.Service) },
	}
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var head struct{ Kind string }
		if err := yaml.Unmarshal(document, &head); err != nil {
			t.Fatal(err)
		}
		object, ok := kinds[head.Kind]
		if !ok {
			t.Errorf("a second or an unknown object of kind %q", head.Kind)
			continue
		}
		delete(kinds, head.Kind)
		if err := yaml.UnmarshalStrict(document, object()); err != nil {
			t.Errorf("%s: %v", head.Kind, err)
		}
	}
	if len(kinds) > 0 {
		t.Errorf("missing: %v", kinds)
	}
}

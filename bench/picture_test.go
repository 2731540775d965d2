package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pictured is a run of which pictures can be drawn.
func pictured() *Results {
	r := &Results{Parameters: defaults("counted")}
	kernel := r.Parameters.mainKernel()
	for _, protocol := range allProtocols {
		for i, server := range []string{stock, ktls, nginx, nginxKTLS, floorSendfile} {
			for _, size := range r.Parameters.Sizes {
				c := r.usualCase(kernel, protocol, size)
				if c.perRequest() && server == floorSendfile {
					continue
				}
				if size >= 16<<20 {
					c.Connections = 1
				}
				r.Samples = append(r.Samples, Sample{Case: c.on(server), Values: map[string]float64{c.costUnit(): float64(4000 * len(protocol) * (10 - i) / 50)}})
			}
		}
	}
	return r
}

func TestDraw(t *testing.T) {
	dir := t.TempDir()
	if d := os.Getenv("PICTURES"); d != "" {
		dir = d
	}
	if err := pictured().draw(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cost", "sizes"} {
		svg, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		if err != nil || !strings.Contains(string(svg), "Caddy with ktls") {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name+".png")); err != nil || info.Size() < 5000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := new(Results).draw(dir); err == nil {
		t.Error("no error for a run without samples")
	}
}

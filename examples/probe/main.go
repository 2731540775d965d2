// Command probe prints whether the running kernel can do kernel TLS, and why
// not. Its exit status is 1 if it can't.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func main() {
	support, err := ktls.Probe()
	if err != nil {
		fmt.Println("kernel TLS: no:", err)
		os.Exit(1)
	}
	var ciphers []string
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"AES-128-GCM", support.AES128GCM},
		{"AES-256-GCM", support.AES256GCM},
		{"ChaCha20-Poly1305", support.ChaCha20Poly1305},
	} {
		if c.ok {
			ciphers = append(ciphers, c.name)
		}
	}
	fmt.Println("kernel TLS: yes:", strings.Join(ciphers, ", "))
}

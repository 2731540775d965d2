// Command probe prints whether the running kernel can do kernel TLS, and why
// not. Its exit status is 1 if it can't.
package main

import (
	"fmt"
	"os"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

func main() {
	support, err := ktls.Probe()
	if err != nil {
		fmt.Println("kernel TLS: no:", err)
		os.Exit(1)
	}
	fmt.Println("kernel TLS: yes:", support)
}

// Package repo_test tests what the repository has beside code: documents, examples,
// files for deployment, and what the packages depend on.
//
// It needs no kernel TLS. Every name of a file is relative to the repository's root,
// to which TestMain goes.
package repo_test

import (
	"fmt"
	"os"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-ktls/caddy-ktls"
)

func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

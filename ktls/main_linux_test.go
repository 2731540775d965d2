package ktls

import (
	"fmt"
	"os"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil/asynccipher"
)

func TestMain(m *testing.M) {
	if err := asynccipher.UseIfAsked(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

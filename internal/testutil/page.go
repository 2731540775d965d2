package testutil

import (
	"strings"
	"testing"
)

// A Page is the text of a page of documentation.
type Page struct {
	Text   []string // what stands outside of fences, in order
	Blocks []Block
}

// A Block is what stands between two fences.
type Block struct{ Kind, Body string }

// ReadPage reads a file of Markdown.
func ReadPage(t testing.TB, name string) (page Page) {
	t.Helper()
	parts := strings.Split(ReadFile(t, name), "```")
	if len(parts)%2 == 0 {
		t.Fatalf("%s: a fence is open", name)
	}
	for i, part := range parts {
		if i%2 == 0 {
			page.Text = append(page.Text, part)
			continue
		}
		kind, body, _ := strings.Cut(part, "\n")
		page.Blocks = append(page.Blocks, Block{kind, body})
	}
	return page
}

package testutil

import (
	"strings"
	"testing"
)

// A Page is the text of a page of the documentation.
type Page struct {
	Text   []string // the text outside of fences, in order
	Blocks []Block
}

// A Block is the text between two fences.
type Block struct{ Kind, Body string }

// ReadPage reads a Markdown file.
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

package ktls

import (
	"strings"
	"testing"
)

func TestStateWords(t *testing.T) {
	seen := make(map[string]bool)
	for s := range numStates {
		if word := s.String(); word == "" || seen[word] || strings.ToLower(word) != word {
			t.Errorf("state %d has the word %q", s, word)
		} else {
			seen[word] = true
		}
	}
	if numStates.String() != "unknown" {
		t.Error("a state that doesn't exist has a word")
	}
}

// Package testutil has what the tests of several packages share.
//
// It imports no other package of this module, so the tests of any of them can import it.
// What needs Caddy is in package caddytest below it.
package testutil

import (
	"errors"
	"testing"
)

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// WantError fails the test unless err matches want, as by errors.Is.
func WantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

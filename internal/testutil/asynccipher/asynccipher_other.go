//go:build !linux

// Package asynccipher does nothing where there is no kernel TLS.
package asynccipher

// UseIfAsked does nothing.
func UseIfAsked() error { return nil }

//go:build !linux

package pagecache

import "github.com/caddy-ktls/caddy-ktls/internal/filerange"

func resident(filerange.Segment) bool { return true }

func load(filerange.Segment, func(<-chan struct{}) error) error { return nil }

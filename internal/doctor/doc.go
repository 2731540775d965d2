// Package doctor implements `caddy ktls check`, which says whether kernel TLS works on
// this machine, and what to do if not.
//
// It looks at the kernel, its module tls, the Go that built the program and the limits of
// the process. It tries each cipher, and gives a verdict. Each file has one topic: the
// facts about it, and what the report says about them.
//
// It does not import Caddy, so it can be built and tested in seconds.
package doctor

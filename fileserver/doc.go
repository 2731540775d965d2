// Package fileserver sends the bodies of HTTP responses that are files by
// sendfile(2) over connections that package ktls has offloaded to the kernel.
//
// Handlers need not know: whatever copies an *os.File to its
// http.ResponseWriter, as http.ServeContent and Caddy's file_server do, reaches
// the writer that [Wrap] puts at the bottom of Caddy's chain of writers.
// What that writer can't send as it is, it copies, as net/http would.
package fileserver

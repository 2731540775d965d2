package fileserver

import "github.com/caddy-ktls/caddy-ktls/ktls"

// A Reason says why the body of a file is copied. The words are few and fixed.
// Where the connection is the reason, it is the word of its [ktls.State].
type Reason string

// The reasons of responses.
const (
	// ReasonNone: the body goes out by sendfile(2).
	ReasonNone Reason = ""
	// ReasonNotOffloadable: the connection is none of [Server.Listener]'s: it
	// speaks HTTP/3, or is not TCP.
	ReasonNotOffloadable Reason = "not_offloadable"
	// ReasonStreamUnknown: over HTTP/2, and the stream of the response was not
	// found.
	ReasonStreamUnknown Reason = "stream_unknown"
	// ReasonPushed: over HTTP/2, and the server has pushed the response, which
	// the client didn't ask for.
	ReasonPushed Reason = "pushed"
	// ReasonPathUnknown: over HTTP/1.1, and something between net/http and the
	// connection alters what is written. See [Server].Distrusted.
	ReasonPathUnknown Reason = "path_unknown"
	// ReasonWriterWrapped: something that may alter the body stands between
	// the writer and net/http.
	ReasonWriterWrapped Reason = "writer_wrapped"
	// ReasonChunked: over HTTP/1.1, and the body's length is not known in
	// advance.
	ReasonChunked Reason = "chunked"
	// ReasonSendfileRefused: the kernel refuses to send the file, because the
	// file system can't or a sandbox forbids it.
	ReasonSendfileRefused Reason = "sendfile_refused"
	// ReasonNoBody: HEAD, or a status without a body.
	ReasonNoBody Reason = "no_body"
	// ReasonSmall: the body is shorter than MinSize.
	ReasonSmall Reason = "small"
	// ReasonNotAFile: the body is not copied from a file, or in parts that
	// are too short.
	ReasonNotAFile Reason = "not_a_file"
)

// Reasons returns all reasons but ReasonNone and those of connections.
func Reasons() []Reason {
	return []Reason{
		ReasonNotOffloadable, ReasonStreamUnknown, ReasonPushed, ReasonPathUnknown, ReasonWriterWrapped,
		ReasonChunked, ReasonSendfileRefused, ReasonNoBody, ReasonSmall, ReasonNotAFile,
	}
}

// reasonOf returns the reason for which a body is copied if the connection is not
// offloaded.
func reasonOf(state ktls.State) Reason { return Reason(state.String()) }

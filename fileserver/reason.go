package fileserver

import "github.com/caddy-ktls/caddy-ktls/ktls"

// A Reason says why the body of a file is copied. The words are few and fixed. If the
// connection is the reason, it is the word of its [ktls.State].
type Reason string

// The reasons of responses.
const (
	// ReasonNone: the body goes out by sendfile(2).
	ReasonNone Reason = ""
	// ReasonNotOffloadable: the connection does not come from a [Server.Listener]: it
	// speaks HTTP/3, or is not TCP.
	ReasonNotOffloadable Reason = "not_offloadable"
	// ReasonStreamUnknown: the stream of the response was not found (HTTP/2 only).
	ReasonStreamUnknown Reason = "stream_unknown"
	// ReasonPushed: the server has pushed the response, for which the client did not ask
	// (HTTP/2 only).
	ReasonPushed Reason = "pushed"
	// ReasonPathUnknown: something between net/http and the connection alters what is
	// written (HTTP/1.1 only). See [Server].Distrusted.
	ReasonPathUnknown Reason = "path_unknown"
	// ReasonWriterWrapped: something that may alter the body stands between
	// the writer and net/http.
	ReasonWriterWrapped Reason = "writer_wrapped"
	// ReasonChunked: the length of the body is not known in advance (HTTP/1.1 only).
	ReasonChunked Reason = "chunked"
	// ReasonSendfileRefused: the kernel refuses to send the file, because the
	// file system can't or a sandbox forbids it.
	ReasonSendfileRefused Reason = "sendfile_refused"
	// ReasonNoBody: HEAD, or a status without a body.
	ReasonNoBody Reason = "no_body"
	// ReasonSmall: the body is shorter than MinSize.
	ReasonSmall Reason = "small"
	// ReasonNotAFile: the body is not copied from a file, or is copied in parts that are
	// too short.
	ReasonNotAFile Reason = "not_a_file"
)

// Reasons returns all reasons except ReasonNone and those of connections.
func Reasons() []Reason {
	return []Reason{
		ReasonNotOffloadable, ReasonStreamUnknown, ReasonPushed, ReasonPathUnknown, ReasonWriterWrapped,
		ReasonChunked, ReasonSendfileRefused, ReasonNoBody, ReasonSmall, ReasonNotAFile,
	}
}

// reasonOf returns why a body is copied if its connection has this state.
func reasonOf(state ktls.State) Reason { return Reason(state.String()) }

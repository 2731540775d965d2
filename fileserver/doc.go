// Package fileserver sends the bodies of HTTP responses that are files by
// sendfile(2), over connections that package ktls has offloaded to the kernel.
//
// Handlers need not know of it. Whatever copies an *os.File to its http.ResponseWriter,
// as http.ServeContent and Caddy's file_server do, reaches the writer that [Wrap] puts at
// the bottom of Caddy's chain of writers. What can't be sent as it is gets copied, as
// net/http would copy it. The header always goes through the server. So does the
// beginning of a body, unless the body goes out over HTTP/1.1, its type is known and the
// connection is already offloaded.
//
// Caddy's side calls [Server.Listener] with its listener. It calls [ConnState] and
// [ConnContext] as hooks of the server, [Wrap] and [Response.Done] for each request, and
// [SelfTest] once.
//
// # A body over HTTP/1.1
//
// net/http writes everything, so a file has to pass through it. For each part of a file
// net/http gets a placeholder of the same length to write. The connection recognises the
// placeholder by its address, and sends the part instead.
//
//	handler   io.Copy(w, file)
//	  writer.ReadFrom                       writer.go, below Caddy's idle timeouts
//	    http1Body.readFrom                  body_http1.go: a file, worth it, nothing against it
//	      start                             the first time: bytes for the Content-Type, the offload
//	      sendFile, sendPart                for each part:
//	        http1Sender.announce, expect    http1.go
//	        http.ResponseWriter.Write       net/http, the placeholder
//	          conn.Write                    conn.go
//	            http1Sender.write, claim    http1.go
//	              ktls.Conn.SendFile        the held header, then the part
//	        http1Sender.finish              what has gone out
//	      copyRest                          what is too short for a placeholder
//
// A Write takes the same way down to http1Sender.write, unchanged.
//
// # A body over HTTP/2
//
// The HTTP/2 server writes the header and the first bytes of a body. Then its stream is
// taken over, and package http2body writes DATA frames of its own between the frames of
// the server. The same goes for bodies of known length that are not files.
//
//	handler   io.Copy(w, file)
//	  writer.ReadFrom                       writer.go, below Caddy's idle timeouts
//	    http2Body.readFrom                  body_http2.go: worth it, nothing against it
//	      start                             the first time: some bytes through the server, the offload
//	        takeOver                        http2body.Stream.AwaitServer and Take
//	      sendRest
//	        http2body.Stream.SendFile       sendfile.go, waits for window and turn
//	          wire.SendFrames               http2.go
//	            ktls.Conn.SendFrames        for each frame its header and payload
//
//	handler   w.Write(bytes)
//	  writer.Write, http2Body.write, send, http2body.Stream.Write, wire.Write, ktls.Conn.Write
//
// What the server writes itself goes through conn.Write, http2body.Conn.Write, wire.Write
// and ktls.Conn.Write.
//
// # Locks
//
// The state of a response has no lock: it belongs to the goroutine of its handler. These
// are the locks:
//
//   - http1Sender.mu guards the announcement, and what follows from it. It is held while
//     ktls.Conn writes, so ktls's locks are taken with it held. [Server].Sent is called
//     with it held; over HTTP/2 with no lock held. [Server].Distrusted is called with no
//     lock held.
//   - writeDeadline.mu guards the timer of a response over HTTP/2. It is held while the
//     server is told of a deadline, so the HTTP/2 server's locks are taken with it held.
//   - handshake.mu guards the result of the handshake. It is held while the handshake
//     runs, so ktls's locks are taken with it held, and the functions of ktls.Options and
//     [Server].HandshakeFailed are called with it held. conn.goAway is held while GOAWAY
//     is inserted.
//   - http2body has locks of its own, which are taken and released within its calls. With
//     them held it calls only wire.SetReadDeadline, which takes no lock of this package.
//   - tested is held while [SelfTest] runs for the first time. The lock of takesMore is
//     held while it tries Caddy's idle timeouts. The self-test calls takesMore.
//
// Apart from these two, no goroutine ever holds two locks of this package, so there is no
// order among the others.
//
// # Assumptions
//
// This package relies on what net/http, golang.org/x/net/http2 and Caddy do but don't
// promise. The complete list follows. (s) marks what [SelfTest] tries at the start. Where
// it does not hold, bodies over that protocol are copied. (r) marks what each response or
// connection finds out by itself. (t) marks what only a test would show.
//
// Of net/http:
//
//   - (s) The address that a connection returns as its LocalAddr is the value of
//     http.LocalAddrContextKey, also through a wrapper of the connection: connOf.
//   - (s) A write of more than 4 KiB to a flushed response with a Content-Length, or over
//     HTTP/1.0, reaches the connection unchanged, in one piece and not copied:
//     httpBuffer. (r) If something else comes, the connection is cut off, and the
//     protocol is no longer trusted: http1Sender.write, finish.
//   - (s) Its writers have the names that bottomOf knows. (r) A body above another one is
//     copied, for [ReasonWriterWrapped].
//   - (t) For the Content-Type it looks at no more than the first 512 bytes: sniffLen.
//   - (t) It sets a read deadline when it begins to wait for a request, and another one
//     when the request begins. Before it sets the first, it calls the ConnState hook with
//     StateIdle: idleness.
//   - (t) It closes its listeners before anything else when it shuts down: missedShutdown.
//   - (t) It refuses a write that exceeds the Content-Length, and writes no part of it:
//     copyRest.
//   - (t) doHandshake does what net/http does for a *tls.Conn before the first request.
//   - (t) An http.MaxBytesReader finds its writer below ours, and makes it close the
//     connection: refuseBody.
//   - (t) Its writer refuses writes after the connection was hijacked: Hijack.
//   - (t) The type that io.Copy makes of an *os.File has the name that package filerange
//     knows. If it has another name, the file is copied.
//
// Of golang.org/x/net/http2, and net/http's copy of it:
//
//   - (s) The number of a response's stream is in the fields rws, stream and id of its
//     writer: streamID. (r) If it is the number of another stream, the bytes that have
//     passed show it: http2body.ErrMismatch.
//   - (s) A flush of its writer sends the header and the bytes written so far:
//     http2body.Stream.AwaitServer.
//   - (t) It sends GOAWAY when it reads one: insertGoAway; and when the header has
//     "Connection: close": Wrap.
//   - (t) The write deadline of a stream can be set at any time until the handler has
//     returned: writeDeadline.
//   - (t) It resets the stream of a handler that panics: tooShort.
//   - (t) It applies a SETTINGS frame before it reads the next frame, and may acknowledge
//     several with one acknowledgment: http2body's ledger.
//   - (t) It writes a body, even filler, in DATA frames of its stream as soon as the body
//     is flushed and there is window. It refuses what exceeds the Content-Length:
//     http2body's filler.
//   - (t) It opens no more than 250 streams of a client at a time, takes no more than 100
//     settings in a frame, and sends nothing behind a GOAWAY with an error: http2body's
//     maxStreams, maxSettings and outbound.
//
// Of Caddy:
//
//   - (s) Its idle timeouts write to the writer that their field ResponseWriterWrapper
//     points to, and that field can be set: Wrap.
//   - (s) They go on correctly if more of a body is taken than the part that they hand
//     on. If not, nothing is sent ahead: takesMore.
//   - (s) Its writers between ours and the server's have the names that bottomOf knows, and
//     alter nothing; (t) the one for read deadlines too. (r) A body above another one is
//     copied, for [ReasonWriterWrapped].
//   - (t) Its recorders below our writer count what a reader's WriteTo reports:
//     tellRecorders.
//   - (t) Its wrappers of a connection have the names that connBelow knows, and embed the
//     field Conn. A connection in any other wrapper has no CloseWrite when it is
//     hijacked.
//   - (t) It sets (*http.Request).TLS to what ConnectionState of a connection returns.
//
// About this process: (t) the memory of the placeholder is never touched, so it takes no
// pages.
package fileserver

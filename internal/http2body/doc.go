// Package http2body sends the bodies of HTTP/2 responses past the HTTP/2 server: it
// puts DATA frames of its own between the frames that golang.org/x/net/http2, or
// net/http, writes to the same connection.
//
// A [Conn] stands between the server and the connection. It follows the frames in
// both directions. When the server has written the header and the beginning of a
// body, [Stream.Take] takes over the rest. From then on the server writes no more
// payload of that stream, but still ends or resets it.
//
// # Windows
//
// Two senders use what the client has granted (RFC 9113, section 5.2). A ledger keeps
// account of it. The server knows of a part of the connection's window only. The rest
// is held back from it, and is what this package may send. For a stream that was taken
// over the server is told of no increments at all.
//
// The server has 65,535 bytes from the beginning, and nobody can take them away. A
// client that has granted no more waits until it gets some of them. So if our part is
// used up, we have the server send a filler of zeros on a stream that was taken over.
// The filler goes nowhere, and what the server has spent for it is ours. All of the
// client's window can be used that way, and no transfer waits for an increment that the
// client has no reason to send. If other streams of the server use up what the filler
// needs, the server is lent more, and the debt is paid from the next increments.
//
// # Turns
//
// One sender at a time writes to the connection, and begins only between two frames.
// The server goes first. Streams follow in the order of their arrival, with up to four
// frames at a time.
//
// # Locks
//
// Conn.mu guards the ledger, the streams and the turns. It is held for moments, never
// while something is written or read. The flag busy says that somebody has the turn,
// and is writing. What it guards of a stream is its sharedState.
//
// insertion.mu guards what is inserted into the client's frames. It may be taken with
// Conn.mu held. With either held nothing of the wire is called but SetReadDeadline, whose
// locks come last. Nothing of the server is called with a lock held.
package http2body

// Package http2body sends the bodies of HTTP/2 responses without passing them through the
// HTTP/2 server. It puts DATA frames of its own between the frames that
// golang.org/x/net/http2, or net/http, writes to the same connection.
//
// A [Conn] stands between the server and the connection. It follows the frames in both
// directions. When the server has written the header and the beginning of a body,
// [Stream.Take] takes over the rest. From then on the server writes no more payload of
// that stream, but still ends or resets it.
//
// # Windows
//
// Two senders use what the client has granted (RFC 9113, section 5.2). A ledger keeps
// account of it. The server knows of only a part of the connection's window. The rest is
// held back from it, and is what this package may send. The server is told of no
// increments for a stream that was taken over.
//
// The server has 65,535 bytes from the beginning, and nobody can take them away. A client
// that has granted no more waits until it gets some of them. So if our part is used up,
// we make the server send a filler of zeros on a stream that was taken over. The filler
// goes nowhere, and what the server has spent on it is ours. That way all of the client's
// window can be used, and no transfer waits for an increment that the client has no
// reason to send. If other streams of the server use up what the filler needs, the server
// is lent more, and the debt is paid from the next increments.
//
// # Turns
//
// One sender at a time writes to the connection, and begins only between two frames. The
// server goes first. Streams follow in the order of their arrival, with up to four frames
// at a time.
//
// Who has the turn must not wait for a disk, because the connection would wait too. So a
// stream first has the next part of its file read, see package pagecache.
//
// # Locks
//
// Conn.mu guards the ledger, the streams and the turns. It is held for moments, never
// while something is written or read. The flag busy says that somebody has the turn, and
// is writing. The part of a stream that Conn.mu guards is its sharedState.
//
// insertion.mu guards what is inserted into the client's frames. It may be taken with
// Conn.mu held. With either held, nothing of the wire is called except SetReadDeadline,
// whose locks come last. Nothing of the server is called with a lock held.
package http2body

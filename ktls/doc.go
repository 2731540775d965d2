// Package ktls offloads to the Linux kernel (kernel TLS) the sending side of TLS
// connections that crypto/tls has established. The kernel then encrypts what is written,
// and sendfile(2) sends files from the page cache to the network without passing them
// through the process. Receiving stays with crypto/tls. Where the kernel can't do it, a
// connection goes on as without this package, and [Conn.State] says why.
//
// A Go server uses [NewListener] as it would use tls.NewListener, with http.Server's
// Serve, or [Server.Conn] as it would use tls.Server. [Listener] says what net/http does
// with such connections.
//
// Only public interfaces of crypto/tls are used. The secrets come from the key log
// (tls.Config.KeyLogWriter). The sequence number of the next record is proved, not
// assumed: the last record that crypto/tls has written must be authentic under the number
// before it. A wrong number would use a nonce of AES-GCM twice.
//
// TLS 1.3 and TLS 1.2 are supported, with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305.
// See https://docs.kernel.org/networking/tls.html.
package ktls

// States
//
// A connection goes through these states:
//
//	handshake ──1──> user space ──2──> offloaded ──3──> retired
//	    │                │                 └───────┬───────┘
//	    4                4                         5
//	    └────────────────┴──> closed <──6── draining
//
//  1. The first Read, Write or ConnectionState runs the handshake. handshakeState
//     notes its end.
//  2. Somebody has asked for the offload (Offload, Options.OffloadAll), and a Write of
//     crypto/tls has left a record that proves the sequence number (prove). The kernel
//     gets the key (setKey). A failure before the kernel has taken the key leaves the
//     connection in user space for good, with a State that says why. A failure afterwards
//     closes the connection. So does a failure that leaves it open whether the kernel has
//     the key (errDoubtful). The State is then KernelUntrusted. From here on tap.relay is
//     not nil, and nothing that crypto/tls writes gets out.
//  3. The key must be replaced, after a KeyUpdate of the peer or very many records, but
//     can't be. Everything works as before, but the owner should close the connection
//     soon (Retired).
//  4. Close, by crypto/tls (closeTLS).
//  5. Close. It sends close_notify, or has it sent in the background as soon as there is
//     room. The peer must then acknowledge everything (finish, drain).
//  6. The peer has everything, or is gone, or has stalled. A connection gets here at once
//     if a call on it is under way or has failed (interrupt, shut). Secrets are zeroed
//     (forget).
//
// Conn.State shows transition 2 only.
//
// Locks
//
// In the order in which they are taken:
//
//   - Conn.out (outgoing) is held by whoever sends: Write, SendFile, CloseWrite and the
//     offload, even while they wait for the peer. It guards outgoing, keyRenewal.at and
//     all of the kernel's methods but acked.
//   - crypto/tls's own locks.
//   - tap.writing is held while crypto/tls writes, which may wait, and by the offload.
//     Because of it, no record comes between the proof and the relay.
//   - recordCounter.mu, controlRelay.mu and keyRenewal.mu guard the structs that they
//     belong to, and are held for moments only. Of the three, only keyRenewal.mu may be
//     taken while another is held, by the offload.
//
// crypto/tls is never called with tap.writing, or a lock after it, held. It also writes
// while it reads, under its own locks, and the tap then sends what the relay has received
// (flush). That is against the order, so flush only tries to take Conn.out. If somebody
// else has Conn.out, they send what the relay has after they release it (unlock).
//
// Close of an offloaded connection takes no lock that is held while something waits. It
// tries Conn.out, and takes the locks that are held for moments. Before the offload,
// crypto/tls closes the connection, and may wait for its own locks and tap.writing, see
// Close. No function of the Options is called with a lock held.
//
// handshakeState.mu is taken before all of these, or alone. It is held while the end of
// the handshake is noted, which calls crypto/tls and takes recordCounter.mu. The other
// locks are taken last, or alone: prober.probing, held by a probe, and writeDeadline.mu,
// Drain.mu, rekeys.mu, sendfileLimiter.mu and waitTimer.mu, held for moments.

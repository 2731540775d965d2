// Package ktls hands the sending side of TLS connections that crypto/tls has
// established to the Linux kernel (kernel TLS). The kernel then encrypts what is
// written, and files go from the page cache to the network by sendfile(2)
// without passing through the process. Receiving stays with crypto/tls. Where the
// kernel can't, a connection goes on as without this package; [Conn.State] says why.
//
// A Go server uses [NewListener] as it would use tls.NewListener, with
// http.Server's Serve, or [Server.Conn] as it would use tls.Server. [Listener] says
// what net/http does with such connections.
//
// Only public interfaces of crypto/tls are used. The secrets come from the key log
// (tls.Config.KeyLogWriter). The number of the next record is proved, not assumed:
// the last record that crypto/tls has written must be authentic under the number
// before it. A wrong number would use a nonce of AES-GCM twice.
//
// TLS 1.3 and TLS 1.2 are supported, with AES-128-GCM, AES-256-GCM and
// ChaCha20-Poly1305. See https://docs.kernel.org/networking/tls.html.
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
//  2. Somebody has asked for it (Offload, Options.OffloadAll), and a Write of
//     crypto/tls has left a record that proves the number (prove). The kernel gets the
//     key (setKey). Any failure until it has taken the key leaves the connection in
//     user space for good, with a State that says why. Any failure afterwards closes
//     it. So does one after which the kernel may have the key or not (errDoubtful);
//     the State is KernelUntrusted then. From here on tap.relay is not nil, and nothing
//     that crypto/tls writes gets out.
//  3. The key has to be replaced and can't be, after a KeyUpdate of the peer or very
//     many records. Everything works as before, but the owner should close the
//     connection soon (Retired).
//  4. Close, by crypto/tls (closeTLS).
//  5. Close. It sends close_notify, or has it sent in the background as soon as there
//     is room, and the peer has to acknowledge everything (finish, drain).
//  6. The peer has everything, or is gone, or has stalled. A connection of which a call
//     is under way, or one has failed, gets here at once (interrupt, shut). Secrets are
//     zeroed (forget).
//
// Conn.State tells of transition 2 only.
//
// Locks
//
// In the order in which they are taken:
//
//   - Conn.out (outgoing) is held by whoever sends: by Write, SendFile, CloseWrite and
//     the offload, also while they wait for the peer. It guards outgoing, keyRenewal.at
//     and all of the kernel's methods but acked.
//   - crypto/tls's own locks.
//   - tap.writing is held while crypto/tls writes, which may wait, and by the offload.
//     No record comes between the proof and the relay, because of it.
//   - recordCounter.mu, controlRelay.mu and keyRenewal.mu guard what they stand in, and
//     are held for moments only. Of the three only the last may be taken with another
//     held, by the offload.
//
// crypto/tls is never called with tap.writing or a later one held. It writes while it
// reads, under its own locks, and the tap then sends what has got into the relay
// (flush). That is against the order, so it only tries to take Conn.out. Whoever has it
// sends what is there when he has released it (unlock).
//
// Close of an offloaded connection takes no lock that is held while something waits: it
// tries Conn.out, and takes those that are held for moments. Before the offload it is
// crypto/tls that closes, and may wait for its own locks and tap.writing, see Close. No function of the Options is called with any held.
//
// handshakeState.mu is taken before all of these, or alone: it is held while the end of
// the handshake is noted, which asks crypto/tls and takes recordCounter.mu. The rest is
// taken last, or alone: prober.probing, held by a probe; writeDeadline.mu, Drain.mu, rekeys.mu, sendfileLimiter.mu and
// uncorkTimer.mu, held for moments.

// Package ktls hands the sending side of TLS connections that crypto/tls has
// established to the Linux kernel (kernel TLS). The kernel then encrypts what
// is written, and files go from the page cache to the network by sendfile(2)
// without passing through the process. Receiving stays with crypto/tls.
//
// Where the kernel can't, a connection goes on with crypto/tls as if this
// package weren't there; [Conn.State] says why.
//
// A Go server uses [NewListener] as it would use tls.NewListener, with
// http.Server's Serve, or [Server.Conn] as it would use tls.Server. [Listener] says
// what net/http does with such connections.
//
// Only public interfaces of crypto/tls are used. The traffic secrets come from
// the key log (tls.Config.KeyLogWriter). The sequence number of the next record
// is proved, not assumed: the last record that crypto/tls has written must be
// authentic under the number before it. A wrong number would use a nonce of
// AES-GCM twice.
//
// Supported are TLS 1.3 and TLS 1.2 with AES-128-GCM, AES-256-GCM and
// ChaCha20-Poly1305.
// See https://docs.kernel.org/networking/tls.html for the kernel's side.
package ktls

//go:build go1.27

package ktls

// http2OnAnyConn reports whether net/http speaks HTTP/2 on connections that are not a
// *tls.Conn.
const http2OnAnyConn = true

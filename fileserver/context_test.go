package fileserver

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/ktls"
)

// A handshake has the context that net/http gives to one of a *tls.Conn: that of the
// server's hooks, with the server and the local address.
func TestHandshakeContext(t *testing.T) {
	type key struct{}
	seen := make(chan [3]any, 1)
	config, client := testConfig()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		ctx := hello.Context()
		seen <- [3]any{ctx.Value(key{}), ctx.Value(http.ServerContextKey), ctx.Value(http.LocalAddrContextKey)}
		return nil, nil
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	own := &Server{TLS: ktls.NewServer(config, nil)}
	server := &http.Server{
		Handler: http.NotFoundHandler(),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return ConnContext(context.WithValue(ctx, key{}, "a hook's"), c)
		},
	}
	go func() { _ = server.Serve(hidingListener{own.Listener(tls.NewListener(inner, config))}) }()
	defer server.Close()
	response, err := client.Get("https://" + inner.Addr().String())
	must(t, err)
	_ = response.Body.Close()
	got := <-seen
	address, _ := got[2].(net.Addr)
	if got[0] != "a hook's" || got[1] != server || address == nil || address.String() != inner.Addr().String() {
		t.Errorf("the context has %v", got)
	}
}

package ktls

import (
	"io"
	"net"
	"testing"

	"github.com/caddy-ktls/caddy-ktls/internal/filerange"
	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

func needsKernel(t testing.TB) { t.Helper(); testutil.RequireKernelTLS(t, Probe) }

// kernelMaker makes connections that the kernel can encrypt.
func kernelMaker(name string, mode mode) maker {
	m := serverMaker(name, NewServer(serverConfig(), &Options{OffloadAll: bool(mode)}))
	m.needs = needsKernel
	return m
}

// A plainSocket makes the system calls that send with kernel TLS, without TLS:
// it shows on every kernel what they take beside the encryption.
type plainSocket struct{ kernel }

func (plainSocket) setKey([]byte, int) error { return nil }
func (plainSocket) rekey([]byte) error       { return nil }

// plainMaker makes connections that are offloaded to a plainSocket.
func plainMaker() maker {
	s := recordingServer(serverConfig())
	s.options.OffloadAll = true
	s.newKernel = func(tcp *net.TCPConn) kernel { return plainSocket{newSocket(tcp)} }
	return serverMaker("plain", s)
}

// BenchmarkKernelHandshake is BenchmarkHandshake on a kernel with TLS: with
// "demand" nothing is offloaded, with "all" everything.
func BenchmarkKernelHandshake(b *testing.B) {
	benchHandshake(b, kernelMaker("demand", onDemand), kernelMaker("all", offloadAll))
}

// BenchmarkOffloadedWrite is BenchmarkWrite after the offload.
func BenchmarkOffloadedWrite(b *testing.B) {
	benchWrite(b, stockMaker(serverConfig()), plainMaker(), kernelMaker("ktls", offloadAll))
}

// BenchmarkSendFile is 64 KiB of a file, which stock copies as net/http does.
func BenchmarkSendFile(b *testing.B) {
	const part, size = 64 << 10, 1 << 20
	for _, m := range []maker{stockMaker(serverConfig()), plainMaker(), kernelMaker("ktls", offloadAll)} {
		b.Run("with="+m.name, func(b *testing.B) {
			p := newBenchPair(b, m, clientConfig())
			p.drain()
			f := testutil.OpenFile(b, testutil.Body(size))
			buf := make([]byte, 32<<10)
			offset := int64(0)
			b.SetBytes(part)
			b.ReportAllocs()
			for b.Loop() {
				var n int64
				var err error
				if conn, ok := p.server.(*Conn); ok {
					n, err = conn.SendFile(nil, filerange.Segment{File: f, Offset: offset, Len: part})
				} else {
					n, err = io.CopyBuffer(struct{ io.Writer }{p.server}, io.NewSectionReader(f, offset, part), buf)
				}
				if n != part || err != nil {
					b.Fatalf("%d bytes, %v", n, err)
				}
				offset = (offset + part) % size
			}
		})
	}
}

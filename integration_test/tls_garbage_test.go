//go:build linux

package integration_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// Content types of TLS records.
const (
	changeCipherSpec = 20
	alert            = 21
	handshakeMessage = 22
	applicationData  = 23
)

// A recordClient shakes hands with crypto/tls and then makes its records by hand.
// It speaks HTTP/1.1 or HTTP/2 in them.
type recordClient struct {
	conn     *tls.Conn // only read
	raw      net.Conn
	protocol string

	aead   cipher.AEAD
	iv     []byte
	number uint64

	reader *bufio.Reader
	framer *http2.Framer // HTTP/2
	stream uint32
	goAway string
	body   io.Reader
}

// openRecords opens a connection with TLS 1.3.
func (c *caddy) openRecords(t testing.TB, protocol string) *recordClient {
	t.Helper()
	raw, err := c.dialWith(socketOption{unix.SOL_SOCKET, unix.SO_RCVBUF, 64 << 10})
	must(t, err)
	t.Cleanup(func() { _ = raw.Close() })
	must(t, raw.SetDeadline(time.Now().Add(patience)))
	var log bytes.Buffer
	config := c.tlsConfig(t)
	config.NextProtos, config.MinVersion, config.KeyLogWriter = []string{protocol}, tls.VersionTLS13, &log
	r := &recordClient{conn: tls.Client(raw, config), raw: raw, protocol: protocol, stream: 1}
	must(t, r.conn.Handshake())
	if suite := r.conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("cipher suite %s", tls.CipherSuiteName(suite))
	}
	var secret []byte
	for line := range strings.Lines(log.String()) {
		if fields := strings.Fields(line); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err = hex.DecodeString(fields[2])
			must(t, err)
		}
	}
	block, err := aes.NewCipher(expandLabel(t, secret, "key", 16))
	must(t, err)
	r.aead, err = cipher.NewGCM(block)
	must(t, err)
	r.iv = expandLabel(t, secret, "iv", 12)
	r.reader = bufio.NewReader(r.conn)
	if protocol == http2.NextProtoTLS {
		r.framer = http2.NewFramer(r, r.reader)
		_, err := io.WriteString(r, http2.ClientPreface)
		must(t, err)
		must(t, r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}))
		must(t, r.framer.WriteWindowUpdate(0, 1<<30))
	}
	return r
}

// expandLabel is HKDF-Expand-Label with SHA-256 (RFC 8446, section 7.1).
func expandLabel(t testing.TB, secret []byte, label string, length int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(length)), byte(len(label)))
	key, err := hkdf.Expand(sha256.New, secret, string(info)+label+"\x00", length)
	must(t, err)
	return key
}

// record makes the next record, with so many zeros as padding.
func (r *recordClient) record(typ byte, content []byte, padding int) []byte {
	inner := append(append(bytes.Clone(content), typ), make([]byte, padding)...)
	header := binary.BigEndian.AppendUint16([]byte{applicationData, 3, 3}, uint16(len(inner)+r.aead.Overhead()))
	nonce := bytes.Clone(r.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, r.number) {
		nonce[4+i] ^= b
	}
	r.number++
	return r.aead.Seal(header, nonce, inner, header)
}

func (r *recordClient) data(content string) []byte {
	return r.record(applicationData, []byte(content), 0)
}

// Write sends p in a record, for the framer.
func (r *recordClient) Write(p []byte) (int, error) {
	if _, err := r.raw.Write(r.data(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// request returns a request as it goes into records.
func (r *recordClient) request(path string) string {
	if r.framer == nil {
		return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
	}
	var block, out bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	_ = http2.NewFramer(&out, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: r.stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	})
	r.stream += 2
	return out.String()
}

// begin reads the beginning of a response.
func (r *recordClient) begin() error {
	if r.framer != nil {
		r.body = &frameBody{client: r}
		return nil
	}
	resp, err := http.ReadResponse(r.reader, nil)
	if err == nil {
		r.body = resp.Body
	}
	return err
}

// get gets a file.
func (r *recordClient) get(path string) partial {
	if _, err := io.WriteString(r, r.request(path)); err != nil {
		return partial{nil, err}
	}
	return r.response()
}

func (r *recordClient) response() partial {
	if err := r.begin(); err != nil {
		return partial{nil, err}
	}
	got, err := io.ReadAll(r.body)
	return partial{got, err}
}

// end returns how the connection ends.
func (r *recordClient) end() string {
	var err error
	if r.framer == nil {
		_, err = io.ReadAll(r.reader)
	}
	for r.framer != nil && err == nil {
		_, err = r.frame()
	}
	if err == nil || err == io.EOF {
		return r.goAway + "close_notify"
	}
	return r.goAway + plain(err)
}

func (r *recordClient) frame() (http2.Frame, error) {
	frame, err := r.framer.ReadFrame()
	if f, ok := frame.(*http2.GoAwayFrame); ok && err == nil {
		r.goAway = fmt.Sprintf("GOAWAY %v, ", f.ErrCode)
	}
	return frame, err
}

// A frameBody is the body of the response that comes next.
type frameBody struct {
	client *recordClient
	rest   []byte
	ended  bool
}

func (b *frameBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.ended {
			return 0, io.EOF
		}
		frame, err := b.client.frame()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		switch f := frame.(type) {
		case *http2.DataFrame:
			b.rest, b.ended = f.Data(), f.StreamEnded()
		case *http2.RSTStreamFrame:
			return 0, fmt.Errorf("stream reset: %v", f.ErrCode)
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Records that a client is free to send.
func TestUnusualRecords(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", minSize+100)
	c.start(t, bothSites)
	together := func(records ...[]byte) [][]byte { return [][]byte{bytes.Join(records, nil)} }
	for _, test := range []struct {
		what, how string
		// segments returns what is written at a time.
		segments func(r *recordClient, request string) [][]byte
		answered bool
	}{
		{"fragments", "a request of which each byte is a record", func(r *recordClient, request string) (segments [][]byte) {
			for i := range request {
				segments = append(segments, r.data(request[i:i+1]))
			}
			return segments
		}, true},
		{"fragments", "a request in records that come a byte at a time", func(r *recordClient, request string) (segments [][]byte) {
			record := append(r.data(request[:1]), r.data(request[1:])...)
			for i := range record {
				segments = append(segments, record[i:i+1])
			}
			return segments
		}, true},
		{"padding", "a request in a record of the greatest length", func(r *recordClient, request string) [][]byte {
			return together(r.record(applicationData, []byte(request), 1<<14-len(request)))
		}, true},
		{"records of length 0", "16 in a row", func(r *recordClient, request string) [][]byte {
			var records []byte
			for range 16 {
				records = append(records, r.data("")...)
			}
			return together(records, r.data(request))
		}, true},
		{"records of length 0", "17 in a row", func(r *recordClient, _ string) [][]byte {
			var records []byte
			for range 17 {
				records = append(records, r.data("")...)
			}
			return together(records)
		}, false},
		{"records of length 0", "16 before each byte of a request", func(r *recordClient, request string) (segments [][]byte) {
			var records []byte
			for i := range request {
				for range 16 {
					records = append(records, r.data("")...)
				}
				records = append(records, r.data(request[i:i+1])...)
			}
			return together(records)
		}, true},
	} {
		for _, protocol := range protocols {
			t.Run(test.how+", "+protocol, func(t *testing.T) {
				before := c.metrics(t)
				result := c.sameAsStock(t, func(c *caddy) string {
					r := c.openRecords(t, protocol)
					first := r.get("/f").is(f)
					for _, segment := range test.segments(r, r.request("/f")) {
						_, err := r.raw.Write(segment)
						must(t, err)
					}
					if !test.answered {
						return first + ", then " + r.end()
					}
					second := r.response().is(f)
					_ = r.raw.Close()
					return first + ", then " + second
				})
				want, times := "whole, then whole", int64(2)
				if !test.answered {
					want, times = "whole, then remote error: tls: unexpected message", 1
				}
				if result != want {
					t.Errorf("%s, want %s", result, want)
				}
				c.expect(t, before, counts{
					"connections:offloaded": 1, "responses:sendfile": times, "sendfile_bytes": times * f.size,
				})
			})
		}
		result := "answered, as by stock Caddy"
		if !test.answered {
			result = "connection ended by an alert, as by stock Caddy"
		}
		fault(t, "Clients", test.what, test.how, result)
	}
}

const fatalAlert = "fatal alert"

// garbage is what a client must not send.
var garbage = []struct {
	what  string
	bytes func(r *recordClient) []byte
	ends  string
}{
	{"bytes that are no record", func(*recordClient) []byte { return bytes.Repeat([]byte{0xff, 0x5a}, 50) },
		"tls: protocol version not supported"},
	{"record with a bad MAC", func(r *recordClient) []byte {
		record := r.data("GET ")
		record[len(record)-1] ^= 1
		return record
	}, "tls: bad record MAC"},
	{"record that is sent again", func(r *recordClient) []byte {
		r.number--
		return r.data("GET ")
	}, "tls: bad record MAC"},
	{"record of an unknown type", func(*recordClient) []byte { return []byte{99, 3, 3, 0, 4, 'd', 'a', 't', 'a'} },
		"tls: bad record MAC"},
	{"encrypted record of an unknown type", func(r *recordClient) []byte { return r.record(99, []byte("data"), 0) },
		"tls: unexpected message"},
	{"record without a type", func(r *recordClient) []byte { return r.record(0, nil, 10) }, "tls: unexpected message"},
	{"record that is too long", func(*recordClient) []byte { return []byte{applicationData, 3, 3, 0x41, 0x01} },
		"tls: record overflow"},
	{"record with too much content", func(r *recordClient) []byte { return r.data(strings.Repeat("a", 1<<14+1)) },
		"tls: record overflow"},
	{"record without encryption", func(*recordClient) []byte { return []byte{applicationData, 3, 3, 0, 4, 'd', 'a', 't', 'a'} },
		"tls: bad record MAC"},
	{"alert without encryption", func(*recordClient) []byte { return []byte{alert, 3, 3, 0, 2, 2, 80} },
		"tls: bad record MAC"},
	{"alert of a wrong length", func(r *recordClient) []byte { return r.record(alert, []byte{2}, 0) }, "tls: unexpected message"},
	{fatalAlert, func(r *recordClient) []byte { return r.record(alert, []byte{2, 80}, 0) }, "close_notify"},
	{"second ClientHello", func(r *recordClient) []byte {
		return r.record(handshakeMessage, append([]byte{1, 0, 0, 38, 3, 3}, make([]byte, 36)...), 0)
	}, "tls: unexpected message"},
	{"handshake message that is too long", func(r *recordClient) []byte {
		return r.record(handshakeMessage, []byte{1, 0xff, 0xff, 0xff}, 0)
	}, "tls: internal error"},
	{"empty handshake record", func(r *recordClient) []byte { return r.record(handshakeMessage, nil, 0) },
		"tls: unexpected message"},
	{"KeyUpdate with an unknown request", func(r *recordClient) []byte {
		return r.record(handshakeMessage, []byte{24, 0, 0, 1, 7}, 0)
	}, "tls: error decoding message"},
}

func TestGarbageAfterHandshake(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", minSize+100)
	c.start(t, bothSites)
	before, want := c.metrics(t), counts{}
	for i, test := range garbage {
		for _, protocol := range protocols {
			if protocol == http2.NextProtoTLS && i%4 != 1 && !long {
				continue
			}
			t.Run(test.what+", "+protocol, func(t *testing.T) {
				ended := func(c *caddy) string {
					r := c.openRecords(t, protocol)
					first := r.get("/f").is(f)
					_, err := r.raw.Write(test.bytes(r))
					must(t, err)
					return first + ", then " + r.end()
				}
				if protocol == http2.NextProtoTLS {
					// The server closes the connection at once, and
					// the alert may be lost.
					if result := ended(c); !strings.HasPrefix(result, "whole, then ") {
						t.Error(result)
					}
					return
				}
				result := c.sameAsStock(t, ended)
				if !strings.HasPrefix(result, "whole, then ") || !strings.HasSuffix(result, test.ends) {
					t.Errorf("%s, want that it ends by %s", result, test.ends)
				}
			})
			for name, n := range sentByKernel(f.size) {
				want[name] += n
			}
		}
	}
	c.expect(t, before, want)
	fault(t, "Clients", "garbage after the handshake", "records with a bad MAC, of unknown type, too long, not encrypted, out of place",
		"connection ended, over HTTP/1.1 by the alert that stock Caddy sends")
}

// A fatal error of the client's in the middle of a body ends the body.
func TestGarbageDuringDownload(t *testing.T) {
	onKernel(t, "7.2")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	c.start(t, bothSites)
	for i, test := range garbage {
		if i%4 != 1 && !long {
			continue
		}
		for _, protocol := range protocols {
			t.Run(test.what+", "+protocol, func(t *testing.T) {
				before := c.metrics(t)
				// The alert may be lost over HTTP/2, whose server closes
				// the connection at once.
				result := c.sameAsStock(t, func(c *caddy) string {
					return c.openRecords(t, protocol).during("/f", test.bytes).isCut(t, f)
				})
				want := counts{"connections:offloaded": 1, "responses:sendfile": 1, "responses_failed": 1, "sendfile_bytes": anyNumber}
				if test.what == fatalAlert && protocol == "http/1.1" {
					// net/http writes on, as it does after FIN.
					want = sentByKernel(f.size)
				} else if result != "cut" {
					t.Error(result)
				}
				c.expect(t, before, want)
			})
		}
	}
	fault(t, "Clients", "garbage during a download", "the same records in the middle of a body", "cut, as by stock Caddy")
}

// during requests a file, sends something when the body has begun, and reads on.
func (r *recordClient) during(path string, send func(r *recordClient) []byte) partial {
	if _, err := io.WriteString(r, r.request(path)); err != nil {
		return partial{nil, err}
	}
	if err := r.begin(); err != nil {
		return partial{nil, err}
	}
	var got bytes.Buffer
	_, err := io.CopyN(&got, r.body, 100_000)
	if err != nil {
		return partial{got.Bytes(), err}
	}
	if p := send(r); len(p) > 0 {
		if _, err := r.raw.Write(p); err != nil {
			return partial{got.Bytes(), err}
		}
	}
	_, err = io.Copy(&got, r.body)
	return partial{got.Bytes(), err}
}

// isCut returns whether a file is whole or cut.
func (p partial) isCut(t testing.TB, f file) string {
	how := p.is(f)
	t.Log(how)
	if strings.HasPrefix(how, "its beginning, ") {
		return "cut"
	}
	return how
}

// A client may shut its side when it has sent its request, or in the middle of the
// response.
func TestHalfClosed(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", huge)
	c.start(t, bothSites)
	before := c.trace(t)
	for _, test := range []struct {
		how    string
		notify bool
	}{{"FIN", false}, {"close_notify and FIN", true}} {
		for _, protocol := range protocols {
			t.Run(test.how+", "+protocol, func(t *testing.T) {
				before := c.metrics(t)
				result := c.sameAsStock(t, func(c *caddy) string {
					r := c.openRecords(t, protocol)
					result := r.during("/f", func(r *recordClient) []byte {
						if test.notify {
							_, err := r.raw.Write(r.record(alert, []byte{1, 0}, 0))
							must(t, err)
						}
						must(t, r.raw.(*net.TCPConn).CloseWrite())
						return nil
					}).isCut(t, f)
					end := r.end() // the server closes its side
					if result == "whole" {
						result += ", then " + end
					}
					_ = r.raw.Close()
					return result
				})
				t.Log(result)
				want := sentByKernel(f.size)
				if result == "cut" {
					want["responses_failed"], want["sendfile_bytes"] = 1, anyNumber
				}
				c.expect(t, before, want)
			})
		}
	}
	for _, entry := range c.entries("response") {
		if n, _ := entry["copied_bytes"].(float64); n < 0 {
			t.Errorf("%v bytes were copied: %v", n, entry)
		}
	}
	c.nothingLeft(t, before)
	fault(t, "Clients", "half-closed connection", "FIN, or close_notify and FIN, in the middle of a response",
		"HTTP/1.1: whole; HTTP/2: cut; as with stock Caddy")
}

// A client of TLS 1.2 may ask for a new handshake.
func TestRenegotiation(t *testing.T) {
	onKernel(t, "6.1")
	requireKernelTLS(t)
	c := newCaddy(t)
	f := c.addFile(t, "f", large)
	small := c.addFile(t, "small", 1000)
	c.start(t, site+stockSite)
	suite := suiteByID(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	for _, test := range []struct {
		name, path string
		file       file
		want       counts
	}{
		{"before the move", "/small", small, copied()},
		{"after the move", "/f", f, sentByKernel(f.size)},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			result := c.sameAsStock(t, func(c *caddy) string {
				p := c.connect(t, openssl, "localhost", suite, "-legacy_renegotiation")
				p.wantFile(t, test.path, test.file)
				p.send(t, "R\n")
				rest, _ := io.ReadAll(p.stdout)
				err := p.cmd.Wait()
				_, complaint, _ := strings.Cut(p.stderr.String(), "RENEGOTIATING")
				alert := "no alert"
				for _, text := range []string{"unexpected message", "no renegotiation"} {
					if strings.Contains(complaint, text) {
						alert = text
					}
				}
				return fmt.Sprintf("%d bytes, %v, %s", len(rest), err != nil, alert)
			})
			if strings.Contains(result, "no alert") {
				t.Error(result)
			}
			t.Log(result)
			c.expect(t, before, test.want)
		})
	}
	fault(t, "Clients", "renegotiation", "TLS 1.2, before and after the move", "connection ended by the alert that stock Caddy sends")
}

// What port scanners send.
func TestScanners(t *testing.T) {
	onKernel(t, "6.12")
	requireKernelTLS(t)
	c := startCaddy(t, bothSites)
	sslv2 := append([]byte{0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10}, make([]byte, 37)...)
	for _, test := range []struct{ name, send string }{
		{"nothing", ""},
		{"hello of SSLv2", string(sslv2)},
		{"random bytes", "\x9c\x01\xfe\x33\x00\x7a\x11\xd0"},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n"},
		{"plain HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
		{"plain HTTP, another method", "CONNECT localhost:443 HTTP/1.1\r\n\r\n"},
		{"plain HTTP/2", http2.ClientPreface},
		{"PROXY protocol", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		{"part of a record", "\x16\x03\x01\x02\x00\x01\x00"},
		{"record of zeros", "\x16\x03\x01\x00\x40" + strings.Repeat("\x00", 64)},
		{"empty ClientHello", "\x16\x03\x01\x00\x04\x01\x00\x00\x00"},
		{"alert", "\x15\x03\x01\x00\x02\x02\x28"},
		{"data", "\x17\x03\x03\x00\x05hello"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := c.metrics(t)
			result := c.sameAsStock(t, func(c *caddy) string {
				conn := c.dialTCP(t).(*net.TCPConn)
				must(t, conn.SetDeadline(time.Now().Add(patience)))
				_, err := io.WriteString(conn, test.send)
				must(t, err)
				must(t, conn.CloseWrite())
				answer, err := io.ReadAll(conn)
				if err != nil {
					err = fmt.Errorf("%s", plain(err))
				}
				// The log tells of the handshake under the client's address.
				var line string
				eventually(t, "the failed handshake is logged", func() error {
					for _, entry := range c.log() {
						prefix := "http: TLS handshake error from " + conn.LocalAddr().String() + ": "
						if text, ok := strings.CutPrefix(entry.message(), prefix); ok {
							line = text
							return nil
						}
					}
					return fmt.Errorf("no line")
				})
				return fmt.Sprintf("%q, %v; %s", answer, err, line)
			})
			t.Log(result)
			c.expect(t, before, copied())
		})
	}
	fault(t, "Clients", "port scanners", "connect and close, hello of SSLv2, random bytes, other protocols",
		"the answer and the line in the log that stock Caddy gives")
}

package harness

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// Content types of TLS records.
const (
	ChangeCipherSpec = 20
	Alert            = 21
	HandshakeMessage = 22
	ApplicationData  = 23
)

// A RecordClient does the handshake with crypto/tls and then makes its records by hand.
// They carry HTTP/1.1 or HTTP/2.
type RecordClient struct {
	conn     *tls.Conn    // only read
	Raw      *TrailedConn // only written
	protocol string

	secret []byte // traffic secret
	aead   cipher.AEAD
	iv     []byte
	Number uint64 // sequence number of the next record

	reader *bufio.Reader
	framer *http2.Framer // HTTP/2
	stream uint32
	goAway string
	body   io.Reader
}

// OpenRecords opens a connection to a site with TLS 1.3.
func OpenRecords(t testing.TB, s Site, protocol string) *RecordClient {
	t.Helper()
	raw := &TrailedConn{TCPConn: s.DialTCP(t, ReceiveBuffer(64<<10))}
	testutil.Must(t, raw.SetDeadline(time.Now().Add(testutil.Patience)))
	var log bytes.Buffer
	config := s.TLSConfig(t, protocol)
	config.MinVersion, config.KeyLogWriter = tls.VersionTLS13, &log
	r := &RecordClient{conn: tls.Client(raw, config), Raw: raw, protocol: protocol, stream: 1}
	testutil.Must(t, r.conn.Handshake())
	if suite := r.conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("cipher suite %s", tls.CipherSuiteName(suite))
	}
	r.setSecret(t, testutil.LoggedSecret(t, log.String(), "CLIENT_TRAFFIC_SECRET_0"))
	r.reader = bufio.NewReader(r.conn)
	if protocol == HTTP2 {
		r.framer = http2.NewFramer(r, r.reader)
		_, err := io.WriteString(r, http2.ClientPreface)
		testutil.Must(t, err)
		testutil.Must(t, r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}))
		testutil.Must(t, r.framer.WriteWindowUpdate(0, 1<<30))
	}
	return r
}

// setSecret begins a key.
func (r *RecordClient) setSecret(t testing.TB, secret []byte) {
	t.Helper()
	block, err := aes.NewCipher(expandLabel(t, secret, "key", 16))
	testutil.Must(t, err)
	r.aead, err = cipher.NewGCM(block)
	testutil.Must(t, err)
	r.iv = expandLabel(t, secret, "iv", 12)
	r.secret, r.Number = secret, 0
}

// KeyUpdate makes a KeyUpdate, which may ask for one in return, and goes on to the key
// that follows (RFC 8446, sections 4.6.3 and 7.2).
func (r *RecordClient) KeyUpdate(t testing.TB, asks bool) []byte {
	t.Helper()
	message := []byte{24, 0, 0, 1, 0}
	if asks {
		message[4] = 1
	}
	record := r.Record(HandshakeMessage, message, 0)
	r.setSecret(t, expandLabel(t, r.secret, "traffic upd", len(r.secret)))
	return record
}

// expandLabel is HKDF-Expand-Label with SHA-256 (RFC 8446, section 7.1).
func expandLabel(t testing.TB, secret []byte, label string, length int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(length)), byte(len(label)))
	key, err := hkdf.Expand(sha256.New, secret, string(info)+label+"\x00", length)
	testutil.Must(t, err)
	return key
}

// Record makes the next record, with so many zeros as padding.
func (r *RecordClient) Record(typ byte, content []byte, padding int) []byte {
	inner := append(append(bytes.Clone(content), typ), make([]byte, padding)...)
	header := binary.BigEndian.AppendUint16([]byte{ApplicationData, 3, 3}, uint16(len(inner)+r.aead.Overhead()))
	nonce := bytes.Clone(r.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, r.Number) {
		nonce[4+i] ^= b
	}
	r.Number++
	return r.aead.Seal(header, nonce, inner, header)
}

// Data makes the next record of application data.
func (r *RecordClient) Data(content string) []byte {
	return r.Record(ApplicationData, []byte(content), 0)
}

// Write sends p in a record, for the framer.
func (r *RecordClient) Write(p []byte) (int, error) {
	if _, err := r.Raw.Write(r.Data(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Request returns a request in the form in which it goes into records.
func (r *RecordClient) Request(path string) string {
	if r.framer == nil {
		return RequestText(path)
	}
	var block, out bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := Fields(http.MethodGet, path)
	for i := 0; i < len(fields); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = http2.NewFramer(&out, nil).WriteHeaders(http2.HeadersFrameParam{
		StreamID: r.stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
	})
	r.stream += 2
	return out.String()
}

// begin reads the beginning of a response.
func (r *RecordClient) begin() error {
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

// Get gets a file.
func (r *RecordClient) Get(path string) Partial {
	if _, err := io.WriteString(r, r.Request(path)); err != nil {
		return Partial{nil, err}
	}
	return r.Response()
}

// Response reads a response.
func (r *RecordClient) Response() Partial {
	if err := r.begin(); err != nil {
		return Partial{nil, err}
	}
	got, err := io.ReadAll(r.body)
	return Partial{got, err}
}

// End returns how the connection ends.
func (r *RecordClient) End() string {
	var err error
	if r.framer == nil {
		_, err = io.ReadAll(r.reader)
	}
	for r.framer != nil && err == nil {
		_, err = r.frame()
	}
	if err == nil || err == io.EOF {
		if !r.Raw.CloseNotify() {
			return r.goAway + "no close_notify"
		}
		return r.goAway + "close_notify"
	}
	return r.goAway + Plain(err)
}

func (r *RecordClient) frame() (http2.Frame, error) {
	frame, err := r.framer.ReadFrame()
	if f, ok := frame.(*http2.GoAwayFrame); ok && err == nil {
		r.goAway = fmt.Sprintf("GOAWAY %v, ", f.ErrCode)
	}
	return frame, err
}

// A frameBody is the body of the response that comes next.
type frameBody struct {
	client *RecordClient
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

// During requests a file, sends something when the body has begun to come, and reads on.
func (r *RecordClient) During(path string, send func(r *RecordClient) []byte) Partial {
	return r.OftenDuring(path, 1, 100_000, send)
}

// OftenDuring requests a file, sends something so many times, each time when so many more
// bytes of the body have come, and reads on.
func (r *RecordClient) OftenDuring(path string, times, every int, send func(r *RecordClient) []byte) Partial {
	if _, err := io.WriteString(r, r.Request(path)); err != nil {
		return Partial{nil, err}
	}
	if err := r.begin(); err != nil {
		return Partial{nil, err}
	}
	var got bytes.Buffer
	for range times {
		if _, err := io.CopyN(&got, r.body, int64(every)); err != nil {
			return Partial{got.Bytes(), err}
		}
		if p := send(r); len(p) > 0 {
			if _, err := r.Raw.Write(p); err != nil {
				return Partial{got.Bytes(), err}
			}
		}
	}
	_, err := io.Copy(&got, r.body)
	return Partial{got.Bytes(), err}
}

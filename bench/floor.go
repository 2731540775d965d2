package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A floor is what the kernel alone costs: a socket with a key, and no server around it.
// Its process sends each body as often as a line of JSON asks for, and closes. Nobody
// decrypts, because the client's work is not counted.

// A floorOrder is what a connection to a floor begins with.
type floorOrder struct {
	File     string `json:"file"`
	Size     int64  `json:"size"`
	Bodies   int    `json:"bodies"`
	Protocol string `json:"protocol"` // over HTTP/2 there are frames
	Cipher   string `json:"cipher"`
	Write    bool   `json:"write"` // by read(2) and write(2), and not by sendfile(2)
}

const (
	frameHeader = 9 // bytes, RFC 9113 section 4.1
	// framePayload is what the module puts into a frame: as much as a record takes, in
	// whole blocks of the cipher.
	framePayload = 16368
	// recordOverhead is what TLS 1.3 adds to a record, in bytes.
	recordOverhead = 5 + 1 + 16
)

// Names of include/uapi/linux/tls.h.
const (
	tlsTX                  = 1
	cipherAESGCM128        = 51
	cipherAESGCM256        = 52
	cipherCHACHA20POLY1305 = 54
)

// runFloor is the process of a floor. It listens on a port of loopback.
func runFloor(ctx context.Context, port string) error {
	listener, err := net.Listen("tcp4", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return ctx.Err()
		}
		go func() {
			defer conn.Close()
			if err := sendFloor(conn.(*net.TCPConn)); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "floor:", err)
			}
		}()
	}
}

func sendFloor(conn *net.TCPConn) error {
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return err
	}
	var o floorOrder
	if err := json.Unmarshal(line, &o); err != nil {
		return err
	}
	file, err := os.Open(o.File)
	if err != nil {
		return err
	}
	defer file.Close()
	socket, err := conn.File() // which blocks
	if err != nil {
		return err
	}
	defer socket.Close()
	out, in := int(socket.Fd()), int(file.Fd())
	if err := unix.SetsockoptString(out, unix.SOL_TCP, unix.TCP_ULP, "tls"); err != nil {
		return fmt.Errorf("TCP_ULP: %w", err)
	}
	if err := unix.SetsockoptString(out, unix.SOL_TLS, tlsTX, floorKey(o.Cipher)); err != nil {
		return fmt.Errorf("TLS_TX: %w", err)
	}
	send := sendFiles
	switch {
	case o.Write:
		send = writeFiles
	case o.Protocol == http2:
		send = sendFrames
	}
	for range o.Bodies {
		if err := send(out, in, &o); err != nil {
			return err
		}
	}
	return nil
}

// floorKey is a struct tls12_crypto_info_* of include/uapi/linux/tls.h for TLS 1.3, all of
// whose keys are zero.
func floorKey(cipher string) string {
	kind, length := map[string]uint16{
		"aes128": cipherAESGCM128, "aes256": cipherAESGCM256, "chacha20": cipherCHACHA20POLY1305,
	}[cipher], 56
	if cipher == "aes128" {
		length = 40
	}
	b := binary.NativeEndian.AppendUint16(nil, tls.VersionTLS13)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return string(append(b, make([]byte, length-len(b))...))
}

// sendFiles sends a body by sendfile(2).
func sendFiles(out, in int, o *floorOrder) error {
	for offset := int64(0); offset < o.Size; {
		if n, err := unix.Sendfile(out, in, &offset, int(o.Size-offset)); err != nil || n == 0 {
			return fmt.Errorf("sendfile: %d, %w", n, err)
		}
	}
	return nil
}

// sendFrames sends a body in frames: the header by sendmsg(2), the payload by sendfile(2).
func sendFrames(out, in int, o *floorOrder) error {
	if err := unix.SetsockoptInt(out, unix.SOL_TCP, unix.TCP_CORK, 1); err != nil {
		return err
	}
	header := make([]byte, frameHeader)
	for offset := int64(0); offset < o.Size; {
		if err := unix.Send(out, header, unix.MSG_MORE); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		for end := min(offset+framePayload, o.Size); offset < end; {
			if n, err := unix.Sendfile(out, in, &offset, int(end-offset)); err != nil || n == 0 {
				return fmt.Errorf("sendfile: %d, %w", n, err)
			}
		}
	}
	return unix.SetsockoptInt(out, unix.SOL_TCP, unix.TCP_CORK, 0)
}

// writeFiles sends a body by read(2) and write(2), with 64 KiB of payload at once.
func writeFiles(out, in int, o *floorOrder) error {
	const parts = 4
	payload, header := int64(16<<10), 0
	if o.Protocol == http2 {
		payload, header = framePayload, frameHeader
	}
	buffer := make([]byte, 0, parts*(16<<10+frameHeader))
	for offset := int64(0); offset < o.Size; {
		buffer = buffer[:0]
		for range parts {
			begin := len(buffer) + header
			n := int(min(payload, o.Size-offset))
			if n == 0 {
				break
			}
			buffer = buffer[:begin+n]
			if _, err := unix.Pread(in, buffer[begin:], offset); err != nil {
				return fmt.Errorf("pread: %w", err)
			}
			offset += int64(n)
		}
		for rest := buffer; len(rest) > 0; {
			n, err := unix.Write(out, rest)
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			rest = rest[n:]
		}
	}
	return nil
}

// runFloor has a floor send, and discards it.
func (l load) runFloor(ctx context.Context, s *server, site site) (loadResult, error) {
	order, err := json.Marshal(floorOrder{
		File: site.file(l.Size), Size: l.Size, Bodies: l.requests / l.Connections,
		Protocol: l.Protocol, Cipher: l.Cipher, Write: l.Server == floorWrite,
	})
	if err != nil {
		return loadResult{}, err
	}
	order = append(order, '\n')
	begun := time.Now()
	ended := make(chan error, l.Connections)
	for range l.Connections {
		go func() { ended <- l.discardFloor(ctx, s.port, order) }()
	}
	var failed []error
	for range l.Connections {
		failed = append(failed, <-ended)
	}
	if err := errors.Join(failed...); err != nil {
		text, _ := os.ReadFile(s.dir + "/log")
		return loadResult{}, fmt.Errorf("%s: %w\n%s", s.name, err, strings.TrimSpace(string(text)))
	}
	return loadResult{succeeded: l.requests, bytes: int64(l.requests) * l.Size, duration: time.Since(begun)}, nil
}

// discardFloor reads what a floor sends on one connection.
func (l load) discardFloor(ctx context.Context, port int, order []byte) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(order); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, conn, make([]byte, 256<<10))
	want := int64(l.requests/l.Connections) * l.Size
	if least := want + want/(16<<10)*recordOverhead; err == nil && n < least {
		err = fmt.Errorf("%d bytes have come, want %d at least", n, least)
	}
	return err
}

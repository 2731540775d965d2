// Package fakekernel makes TLS records in user space from what package ktls gives to the
// kernel, so that the offload can be tested where there is no kernel TLS. With the code
// that it tests it shares only the numbers of the kernel's header.
//
// With the build tag fakekernel, package ktls uses it in the place of the kernel. No
// other build has it.
package fakekernel

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// MaxPayload is the most data, in bytes, that the kernel puts into one record.
const MaxPayload = 16384

// A Kernel is the sending side of one connection. It complains where a real kernel would
// corrupt the connection.
type Kernel struct {
	Wire     io.Writer // takes the records
	Complain func(format string, arguments ...any)
	// MaxFile, if not 0, is the most that one SendFile sends, in bytes. It then leaves a
	// record open.
	MaxFile int64

	mu       sync.Mutex
	key      Sealer
	sequence uint64
	open     []byte // data of a record that waits for more
	corked   bool
	counts   Counts
}

// Counts say what a Kernel has done.
type Counts struct {
	Rekeys  int    // keys replaced, not counting a first key that is set again
	Records uint64 // records made
	Sent    int64  // bytes of application data, including those of files
	Files   int64  // bytes of files
}

// Counts returns what the kernel has done so far.
func (k *Kernel) Counts() Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counts
}

// Sequence returns the sequence number of the next record.
func (k *Kernel) Sequence() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sequence
}

// Open returns how many bytes wait in an open record.
func (k *Kernel) Open() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.open)
}

// Corked reports whether TCP holds back what does not fill a segment.
func (k *Kernel) Corked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.corked
}

// SetKey takes the first key, a struct tls12_crypto_info_* of include/uapi/linux/tls.h,
// and how many bytes a record has besides its content.
func (k *Kernel) SetKey(info []byte, overhead int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, sequence, err := ParseInfo(info)
	if err != nil {
		return err
	}
	if got := len(key.Seal(0, 23, nil)); got != overhead {
		k.Complain("overhead %d, want %d", overhead, got)
	}
	k.key, k.sequence = key, sequence
	return countTaken()
}

// Rekey replaces the key.
func (k *Kernel) Rekey(info []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.open) > 0 {
		k.Complain("new key while a record with %d bytes is open", len(k.open))
	}
	key, sequence, err := ParseInfo(info)
	if err != nil {
		return err
	}
	if k.counts.Records > 0 || sequence != k.sequence {
		k.counts.Rekeys++
	}
	k.key, k.sequence = key, sequence
	return nil
}

// Send sends application data. With more set, the last record may stay open.
func (k *Kernel) Send(p []byte, more bool) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.data(p, more); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SendFile sends at most n bytes of f from offset on. It returns how many bytes it sent.
func (k *Kernel) SendFile(f io.ReaderAt, offset, n int64) (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	most := n
	if k.MaxFile > 0 {
		most = min(most, k.MaxFile)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, most))
	if err != nil {
		return 0, err
	}
	// A round that sends less than asked for promises more data, as splice does.
	if err := k.data(b, int64(len(b)) < n); err != nil {
		return 0, err
	}
	k.counts.Files += int64(len(b))
	return int64(len(b)), nil
}

// SendFrames sends count frames of a file, of n bytes each, with header before each. file
// sends up to left bytes by SendFile, when done bytes of the file have been sent.
func (k *Kernel) SendFrames(header []byte, n int64, count int, file func(done, left int64) (int64, error)) (sent int64, err error) {
	for range count {
		if _, err := k.Send(header, true); err != nil {
			return sent, err
		}
		for left := n; left > 0; {
			m, err := file(sent, left)
			if sent += m; err != nil || m == 0 {
				return sent, err
			}
			left -= m
		}
	}
	return sent, nil
}

// SendControl sends a record other than application data.
func (k *Kernel) SendControl(typ byte, body []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.open) > 0 {
		k.Complain("control record of type %d while a record with %d bytes is open", typ, len(k.open))
	}
	return k.record(typ, body)
}

// Cork makes TCP hold back what does not fill a segment, or stops that.
func (k *Kernel) Cork(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.corked = on
}

// record writes one record. Caller holds k.mu.
func (k *Kernel) record(typ byte, content []byte) error {
	n, err := k.Wire.Write(k.key.Seal(k.sequence, typ, content))
	if n > 0 || err == nil { // otherwise nothing was sent, as after a deadline
		k.sequence++
		k.counts.Records++
	}
	return err
}

// data adds application data and writes the records that are complete. Caller holds
// k.mu.
func (k *Kernel) data(p []byte, more bool) error {
	k.open = append(k.open, p...)
	k.counts.Sent += int64(len(p))
	for len(k.open) >= MaxPayload || len(k.open) > 0 && !more {
		n := min(len(k.open), MaxPayload)
		if err := k.record(23, k.open[:n]); err != nil {
			return err
		}
		k.open = k.open[n:]
	}
	return nil
}

// ParseInfo reads a struct tls12_crypto_info_* of include/uapi/linux/tls.h.
func ParseInfo(b []byte) (key Sealer, sequence uint64, err error) {
	if len(b) < 4 {
		return key, 0, fmt.Errorf("fakekernel: crypto info of %d bytes", len(b))
	}
	version, kind := binary.NativeEndian.Uint16(b), binary.NativeEndian.Uint16(b[2:])
	size := map[uint16]int{51: 40, 52: 56, 54: 56}[kind]
	if version != 0x0303 && version != 0x0304 || len(b) != size {
		return key, 0, fmt.Errorf("fakekernel: version %#x, cipher %d, %d bytes", version, kind, len(b))
	}
	b = b[4:]
	take := func(n int) (part []byte) {
		part, b = b[:n], b[n:]
		return part
	}
	var iv, salt, secret []byte
	switch kind {
	case 51:
		iv, secret, salt = take(8), take(16), take(4)
	case 52:
		iv, secret, salt = take(8), take(32), take(4)
	case 54:
		iv, secret = take(12), take(32)
	}
	number := take(8)
	sequence = binary.BigEndian.Uint64(number)
	key = Sealer{Version: version, Explicit: version == 0x0303 && kind != 54}
	if key.Explicit {
		if !bytes.Equal(iv, number) {
			return key, 0, fmt.Errorf("fakekernel: explicit nonce %x, number %x", iv, number)
		}
		iv = make([]byte, 8)
	}
	copy(key.IV[copy(key.IV[:], salt):], iv)
	if kind == 54 {
		key.AEAD, err = chacha20poly1305.New(secret)
		return key, sequence, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return key, 0, err
	}
	key.AEAD, err = cipher.NewGCM(block)
	return key, sequence, err
}

// A Sealer makes records exactly as RFC 8446, section 5.2, or RFC 5246, section 6.2.3.3,
// with RFC 5288 and RFC 7905, say.
type Sealer struct {
	Version  uint16
	Explicit bool // the nonce ends with the sequence number, which the record carries
	AEAD     cipher.AEAD
	IV       [12]byte
}

// Seal returns a whole record with a content type and content.
func (k Sealer) Seal(sequence uint64, typ byte, content []byte) []byte {
	var number, nonce [12]byte
	binary.BigEndian.PutUint64(number[4:], sequence)
	for i := range nonce {
		nonce[i] = number[i] ^ k.IV[i]
	}
	if k.Version == 0x0304 {
		n := len(content) + 1 + k.AEAD.Overhead()
		header := []byte{23, 3, 3, byte(n >> 8), byte(n)}
		return k.AEAD.Seal(header, nonce[:], append(bytes.Clone(content), typ), header)
	}
	additional := append(bytes.Clone(number[4:]), typ, 3, 3, byte(len(content)>>8), byte(len(content)))
	n := len(content) + k.AEAD.Overhead()
	var explicit []byte
	if k.Explicit {
		explicit = number[4:]
		n += len(explicit)
	}
	record := append([]byte{typ, 3, 3, byte(n >> 8), byte(n)}, explicit...)
	return k.AEAD.Seal(record, nonce[:], content, additional)
}

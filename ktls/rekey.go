package ktls

import (
	"fmt"
	"math"
)

// keyLimit is how many records one AES-GCM key may protect. RFC 8446, section
// 5.5, allows 2^24.5 records of full size. Java allows fewer: after 2^37 bytes under
// one key, 512 records before 2^23, it sends a KeyUpdate for every record that it
// receives, until the key is new (JDK-8329548; the property jdk.tls.keyLimits has
// the number). Half of that leaves room for the Write or the response that is under
// way. ChaCha20-Poly1305 has no limit that matters.
const keyLimit = 1 << 22

// firstRenewal returns how many records the kernel may make under the key that
// crypto/tls has begun with.
func (c *Conn) firstRenewal() uint64 {
	if c.rec.suite.kernel == cipherChaCha20Poly1305 {
		return math.MaxUint64
	}
	return c.server.keyLimit - min(c.rec.first, c.server.keyLimit)
}

// worn reports whether the key has protected enough records. c.out is held.
func (c *Conn) worn() bool {
	return c.renewAt != math.MaxUint64 && c.kernel.records() >= c.renewAt
}

// renew replaces a key that is worn out, or retires the connection. c.out is
// held.
func (c *Conn) renew() error {
	if c.rec.rekey {
		return c.updateKey()
	}
	c.renewAt = math.MaxUint64
	if !c.rec.retired.Swap(true) {
		c.notices = append(c.notices, c.tellRetired)
	}
	return nil
}

func (c *Conn) tellRetired() {
	if f := c.server.options.Retired; f != nil {
		f(c)
	}
}

// updateKey sends a KeyUpdate and gives the kernel the key that follows (RFC
// 8446, section 4.6.3). No record is open. If the kernel refuses, no record may
// follow: the peer expects the new key. c.out is held.
func (c *Conn) updateKey() error {
	if err := c.kernel.sendControl(recordHandshake, keyUpdate[:], true); err != nil {
		return err
	}
	info, err := c.rec.nextKey()
	if err != nil {
		return err
	}
	defer clear(info)
	if err := c.kernel.rekey(info); err != nil {
		c.server.rekeys.refused(c.raw.LocalAddr(), c.rec.suite, err)
		return fmt.Errorf("%w: %w", errRekey, err)
	}
	if c.renewAt != math.MaxUint64 {
		c.renewAt = c.kernel.records() + c.server.keyLimit
	}
	if f := c.server.options.KeyUpdated; f != nil {
		c.notices = append(c.notices, func() { f(c) })
	}
	return nil
}

// Retired reports whether the connection should be closed as soon as what is
// under way is complete, since its sending key can't be replaced: the peer has
// asked for it by a KeyUpdate, or the key has protected very many records. That
// happens with TLS 1.2 and before Linux 6.14. Until then everything works.
//
// With net/http the ConnState hook can do it, when a connection gets idle.
func (c *Conn) Retired() bool { return c.rec.retired.Load() }

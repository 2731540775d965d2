package ktls

import "testing"

// What was sent is counted beyond 2^32 bytes.
func TestCountBeyond32Bits(t *testing.T) {
	const size, overhead uint64 = 9<<29 + 321, 22 // 4.5 GiB
	s := socket{overhead: int(overhead)}
	for n := int64(size); n > 0; n -= 1 << 20 {
		s.count(min(n, 1<<20), n > 1<<20)
	}
	const records = (size + maxPayload - 1) / maxPayload
	if s.records() != records || s.wire != size+records*overhead || s.span != 0 {
		t.Errorf("%d records with %d bytes, and %d bytes; want %d records with %d bytes",
			s.records(), s.wire, s.span, records, size+records*overhead)
	}
}

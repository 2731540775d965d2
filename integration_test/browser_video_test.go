package integration_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// The video has no compression, so it is large and needs no encoder.
const (
	videoWidth   = 320
	videoHeight  = 240
	videoFrames  = 120
	videoRate    = 4 // frames per second
	macroblocks  = videoWidth / 16 * videoHeight / 16
	videoTimes   = 1000 // units per second in the file's boxes
	frameLasts   = videoTimes / videoRate
	videoLasts   = videoFrames * frameLasts
	unitOverhead = 4 // before each frame: its length
)

// shade is the luma of the top left corner of a frame, by which it is known.
func shade(frame int) byte { return byte(20 + frame*3/2) }

// shadeSeen is the grey that a browser makes of it (ITU-R BT.601).
func shadeSeen(frame int) int { return (int(shade(frame)) - 16) * 255 / 219 }

// videoFile returns an MP4 file with H.264 (ITU-T H.264): every picture is of
// its own, and each of its macroblocks has samples as they are (I_PCM).
func videoFile() []byte {
	noise := rand.NewChaCha8([32]byte{'v'})
	var samples []byte
	size := 0
	for i := range videoFrames {
		f := frame(i, noise)
		size = unitOverhead + len(f)
		samples = binary.BigEndian.AppendUint32(samples, uint32(len(f)))
		samples = append(samples, f...)
	}
	start := box("ftyp", []byte("isom"), u32(0x200), []byte("isomavc1"))
	// The place of the samples is known when all before them is.
	length := len(start) + len(movie(size, 0)) + 8
	return slices.Concat(start, movie(size, length), box("mdat", samples))
}

// frame returns the slice, one for the picture. No sample is below 4, so that
// there is nothing to escape.
func frame(i int, noise *rand.ChaCha8) []byte {
	var b bits
	b.u(8, 0x65) // NAL unit: a slice of an IDR picture
	b.ue(0)      // first_mb_in_slice
	b.ue(7)      // slice_type: I
	b.ue(0)      // pic_parameter_set_id
	b.u(4, 0)    // frame_num
	b.ue(i % 2)  // idr_pic_id
	b.u(2, 0)    // dec_ref_pic_marking
	b.ue(0)      // slice_qp_delta
	samples := make([]byte, 256+64+64)
	for m := range macroblocks {
		_, _ = noise.Read(samples) // never fails
		for s := range samples {
			switch {
			case m == 0 && s < 256:
				samples[s] = shade(i)
			case m == 0:
				samples[s] = 128 // no colour
			default:
				samples[s] = max(samples[s], 4)
			}
		}
		b.ue(25) // mb_type: I_PCM
		b.align()
		b.bytes = append(b.bytes, samples...)
	}
	return b.trailing()
}

func parameterSets() (sequence, picture []byte) {
	var s bits
	s.u(32, 0x67_42_c0_28) // NAL unit, constrained baseline profile, level 4
	s.ue(0)                // seq_parameter_set_id
	s.ue(0)                // log2_max_frame_num_minus4
	s.ue(2)                // pic_order_cnt_type: as they come
	s.ue(0)                // max_num_ref_frames
	s.u(1, 0)              // gaps_in_frame_num_value_allowed_flag
	s.ue(videoWidth/16 - 1)
	s.ue(videoHeight/16 - 1)
	s.u(4, 0b1100) // frames only, direct_8x8_inference; no cropping, no VUI
	var p bits
	p.u(8, 0x68)
	p.ue(0)   // pic_parameter_set_id
	p.ue(0)   // seq_parameter_set_id
	p.u(2, 0) // CAVLC
	p.ue(0)   // num_slice_groups_minus1
	p.ue(0)   // num_ref_idx_l0_default_active_minus1
	p.ue(0)   // num_ref_idx_l1_default_active_minus1
	p.u(3, 0) // no weighted prediction
	p.ue(0)   // pic_init_qp_minus26
	p.ue(0)   // pic_init_qs_minus26
	p.ue(0)   // chroma_qp_index_offset
	p.u(3, 0)
	return s.trailing(), p.trailing()
}

// movie returns the box that describes the samples (ISO/IEC 14496-12), which
// all have this size and begin at this offset.
func movie(size, offset int) []byte {
	sequence, picture := parameterSets()
	matrix := slices.Concat(u32(0x10000), zeros(12), u32(0x10000), zeros(12), u32(0x40000000))
	avcC := box("avcC", []byte{1}, sequence[1:4], []byte{0xff, 0xe1},
		u16(len(sequence)), sequence, []byte{1}, u16(len(picture)), picture)
	avc1 := box("avc1", zeros(6), u16(1), zeros(16), u16(videoWidth), u16(videoHeight),
		u32(72<<16), u32(72<<16), zeros(4), u16(1), zeros(32), u16(24), u16(0xffff), avcC)
	table := box("stbl",
		box("stsd", zeros(4), u32(1), avc1),
		box("stts", zeros(4), u32(1), u32(videoFrames), u32(frameLasts)),
		box("stsc", zeros(4), u32(1), u32(1), u32(videoFrames), u32(1)),
		box("stsz", zeros(4), u32(size), u32(videoFrames)),
		box("stco", zeros(4), u32(1), u32(offset)))
	media := box("mdia",
		box("mdhd", zeros(12), u32(videoTimes), u32(videoLasts), u16(0x55c4), zeros(2)),
		box("hdlr", zeros(8), []byte("vide"), zeros(13)),
		box("minf",
			box("vmhd", u32(1), zeros(8)),
			box("dinf", box("dref", zeros(4), u32(1), box("url ", u32(1)))),
			table))
	track := box("trak",
		box("tkhd", u32(3), zeros(8), u32(1), zeros(4), u32(videoLasts), zeros(16),
			matrix, u32(videoWidth<<16), u32(videoHeight<<16)),
		media)
	return box("moov",
		box("mvhd", zeros(12), u32(videoTimes), u32(videoLasts), u32(0x10000), u16(0x100), zeros(10),
			matrix, zeros(24), u32(2)),
		track)
}

// box returns a box of an MP4 file.
func box(name string, content ...[]byte) []byte {
	body := bytes.Join(content, nil)
	return slices.Concat(u32(8+len(body)), []byte(name), body)
}

func u32(n int) []byte   { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func u16(n int) []byte   { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func zeros(n int) []byte { return make([]byte, n) }

// bits writes numbers of any number of bits.
type bits struct {
	bytes []byte
	free  int // bits of the last byte
}

func (b *bits) u(n int, value uint32) {
	for i := n - 1; i >= 0; i-- {
		if b.free == 0 {
			b.bytes, b.free = append(b.bytes, 0), 8
		}
		b.free--
		b.bytes[len(b.bytes)-1] |= byte(value>>i&1) << b.free
	}
}

// ue writes an Exp-Golomb code (H.264, section 9.1).
func (b *bits) ue(value int) {
	length := 0
	for (value+1)>>(length+1) > 0 {
		length++
	}
	b.u(length, 0)
	b.u(length+1, uint32(value+1))
}

func (b *bits) align() { b.free = 0 }

// trailing ends a NAL unit.
func (b *bits) trailing() []byte {
	b.u(1, 1)
	return b.bytes
}

package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// featureTLS is the name of NETIF_F_HW_TLS_TX (net/ethtool/common.c).
const featureTLS = "tls-hw-tx-offload"

// interfacesWith lists the network interfaces on which a feature is on, as `ethtool -k`
// does. It needs no privileges (ethtool-netlink.rst, FEATURES_GET; Linux 5.8).
func interfacesWith(feature string) ([]string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}

	name := append([]byte(unix.ETHTOOL_GENL_NAME), 0)
	answers, err := netlinkRequest(fd, unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, 0,
		appendAttribute(nil, unix.CTRL_ATTR_FAMILY_NAME, name))
	if err != nil {
		return nil, fmt.Errorf("look up ethtool: %w", err)
	}
	var family uint16
	for _, answer := range answers {
		if id := attribute(answer, unix.CTRL_ATTR_FAMILY_ID); len(id) >= 2 {
			family = binary.NativeEndian.Uint16(id)
		}
	}

	answers, err = netlinkRequest(fd, family, unix.ETHTOOL_MSG_FEATURES_GET, unix.NLM_F_DUMP,
		appendAttribute(nil, unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil))
	if err != nil {
		return nil, fmt.Errorf("get features: %w", err)
	}
	names := []string{}
	for _, answer := range answers {
		header := attribute(answer, unix.ETHTOOL_A_FEATURES_HEADER)
		if hasFeature(attribute(answer, unix.ETHTOOL_A_FEATURES_ACTIVE), feature) {
			names = append(names, unix.ByteSliceToString(attribute(header, unix.ETHTOOL_A_HEADER_DEV_NAME)))
		}
	}
	return names, nil
}

// hasFeature reports whether a bit set in its verbose form has a feature. A set without a
// mask lists the bits that are on.
func hasFeature(set []byte, feature string) (found bool) {
	eachAttribute(attribute(set, unix.ETHTOOL_A_BITSET_BITS), func(_ uint16, bit []byte) {
		if unix.ByteSliceToString(attribute(bit, unix.ETHTOOL_A_BITSET_BIT_NAME)) == feature {
			found = true
		}
	})
	return found
}

// netlinkRequest returns the attributes of each answer to a request of generic
// netlink (netlink(7)).
func netlinkRequest(fd int, family uint16, command uint8, flags uint16, attributes []byte) ([][]byte, error) {
	const genlHeaderLen = 4 // struct genlmsghdr: command, version, 2 reserved
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+genlHeaderLen+len(attributes))
	binary.NativeEndian.PutUint32(b[0:], uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], family)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	b = append(b, command, 1, 0, 0)
	b = append(b, attributes...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	var answers [][]byte
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return answers, nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4: // 0 is an acknowledgment
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
					return nil, unix.Errno(-code)
				}
				return answers, nil
			case len(m.Data) >= genlHeaderLen:
				answers = append(answers, append([]byte(nil), m.Data[genlHeaderLen:]...))
			}
		}
	}
}

func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	n := unix.NLA_HDRLEN + len(value)
	b = binary.NativeEndian.AppendUint16(b, uint16(n))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, (4-n%4)%4)...) // NLA_ALIGN
}

// eachAttribute calls f for each attribute in b.
func eachAttribute(b []byte, f func(typ uint16, value []byte)) {
	const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	for len(b) >= unix.NLA_HDRLEN {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.NLA_HDRLEN || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^flags, b[unix.NLA_HDRLEN:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// attribute returns the value of the attribute of a type, or nil if there is none.
func attribute(b []byte, typ uint16) (value []byte) {
	eachAttribute(b, func(t uint16, v []byte) {
		if t == typ {
			value = v
		}
	})
	return value
}

package doctor

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Every loopback interface has the feature NETIF_F_LOOPBACK, under this name, on
// for good; hardware that encrypts is rare.
func TestInterfacesWith(t *testing.T) {
	names, err := interfacesWith("loopback")
	if err != nil {
		t.Skip("the kernel has no netlink interface for ethtool: ", err)
	}
	if !slices.Contains(names, "lo") {
		t.Errorf("interfaces with the feature loopback: %q, want lo", names)
	}
	if names, err := interfacesWith("no such feature"); len(names) > 0 || err != nil {
		t.Errorf("interfaces with no such feature: %q, %v", names, err)
	}
}

func FuzzHasFeature(f *testing.F) {
	bit := appendAttribute(nil, unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED,
		appendAttribute(nil, unix.ETHTOOL_A_BITSET_BIT_NAME, []byte(featureTLS+"\x00")))
	set := appendAttribute(nil, unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, bit)
	if !hasFeature(set, featureTLS) || hasFeature(set, "tls-hw-rx-offload") {
		f.Error("a set with one feature is not understood")
	}
	f.Add(set)
	f.Fuzz(func(t *testing.T, set []byte) { hasFeature(set, featureTLS) })
}

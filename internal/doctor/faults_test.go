package doctor

import (
	"slices"
	"testing"
)

func identities(faults []knownFault) (ids []string) {
	for _, f := range faults {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestFaultsOf(t *testing.T) {
	const (
		closing, queue           = "CVE-2026-23240", "CVE-2026-31533"
		last, large, wait, types = "54001d0f2fdb", "7f846c65ca11", "b014a4e066c5", "b6fe4c29bb51"
	)
	for _, test := range []struct {
		version version
		want    []string
	}{
		{version{5, 4, 300}, []string{closing, queue, last, large, wait, types}},
		{version{5, 4, 301}, []string{closing, queue, last, wait}},
		{version{5, 10, 246}, []string{closing, queue, last, wait}},
		{version{5, 15, 195}, []string{closing, queue, last, large, wait, types}},
		{version{5, 15, 196}, []string{closing, queue}},
		{version{5, 15, 203}, []string{closing}},
		{version{6, 1, 157}, []string{closing, queue, last, large, wait, types}},
		{version{6, 1, 158}, []string{closing, queue}},
		{version{6, 1, 168}, []string{closing, queue}},
		{version{6, 6, 113}, []string{closing, queue, last, large, wait, types}},
		{version{6, 6, 114}, []string{closing, queue}},
		{version{6, 6, 135}, []string{closing}},
		{version{6, 11, 11}, []string{closing, queue, last, large, wait, types}},
		{version{6, 12, 54}, []string{closing, queue, large, wait, types}},
		{version{6, 12, 55}, []string{closing, queue}},
		{version{6, 12, 74}, []string{closing, queue}},
		{version{6, 12, 75}, []string{queue}},
		{version{6, 12, 82}, nil},
		{version{6, 14, 9}, []string{closing, queue, large, wait, types}},
		{version{6, 17, 4}, []string{closing, queue, large, wait, types}},
		{version{6, 17, 5}, []string{closing, queue}},
		{version{6, 18, 0}, []string{closing, queue}},
		{version{6, 18, 23}, nil},
		{version{6, 19, 6}, []string{queue}},
		{version{6, 19, 13}, nil},
		{version{7, 0, 0}, nil},
	} {
		if got := identities(kernelFaultsOf(test.version)); !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.version, got, test.want)
		}
	}
	for _, f := range kernelFaults {
		if !slices.IsSortedFunc(f.fixed, func(v, w version) int { return slices.Compare(v[:], w[:]) }) {
			t.Errorf("%s: the versions are not in ascending order", f.ID)
		}
	}
}

package doctor

import (
	"testing"
	"testing/fstest"
)

func files(pairs ...string) fstest.MapFS {
	root := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		root[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return root
}

func TestFindModule(t *testing.T) {
	const others = "nf_tables 1 0 - Live 0x0\ntls_device 1 0 - Live 0x0\n"
	tests := []struct {
		name string
		root fstest.MapFS
		want string
	}{
		{"nothing to see", files(), moduleNotLoaded},
		{"loaded", files("proc/modules", others+"tls 155648 0 - Live 0x0\n", "proc/net/tls_stat", ""), moduleLoaded},
		{"built in, in use", files("proc/modules", others, "proc/sys/net/ipv4/tcp_available_ulp", "espintcp mptcp tls\n"), moduleBuiltIn},
		{"built in, seen in a container", files("proc/modules", others, "proc/net/tls_stat", ""), moduleBuiltIn},
		{"built in", files("lib/modules/6.1/modules.builtin", "kernel/net/x.ko\nkernel/net/tls/tls.ko\n"), moduleBuiltIn},
		{
			"not loaded",
			files("proc/modules", others, "proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n",
				"lib/modules/6.1/modules.dep", "kernel/a.ko: kernel/net/tls/tls.ko\nkernel/net/tls/tls.ko.zst:\n"),
			moduleNotLoaded,
		},
		{"not loaded, in a container", files("proc/modules", others, "proc/version", "Linux"), moduleNotLoaded},
		{"not installed", files("proc/modules", others, "lib/modules/6.1/modules.dep", "kernel/a.ko: kernel/net/tls/tls.ko\n"), moduleNotInstalled},
		{"kernel without modules", files("proc/version", "Linux"), moduleNotInstalled},
		{"updated kernel", files("proc/modules", others, "lib/modules/6.2/modules.dep", "kernel/net/tls/tls.ko:\n"), moduleGone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := findModule(test.root, "6.1"); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestLoadedAtBoot(t *testing.T) {
	tests := []struct {
		name string
		root fstest.MapFS
		want bool
	}{
		{"no", files(), false},
		{"yes", files("etc/modules-load.d/tls.conf", "tls\n"), true},
		{"with others", files("usr/lib/modules-load.d/a.conf", "# for caddy\nloop\n tls"), true},
		{"comment", files("etc/modules-load.d/tls.conf", "# tls\n;tls\ntls_x\n"), false},
		{"other name", files("etc/modules-load.d/tls", "tls\n"), false},
		{"masked", files("etc/modules-load.d/a.conf", "", "usr/lib/modules-load.d/a.conf", "tls\n"), false},
		{"etc/modules", files("etc/modules", "loop\ntls\n"), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := loadedAtBoot(test.root); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

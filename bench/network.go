package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A condition is what a network does with packets, and how the server's TCP answers it.
type condition struct {
	name       string
	delay      string // each way, as netem has it
	toClient   string // more of what netem does on the way to the client
	bottleneck string // arguments of tbf on the way to the client, none if it is empty
	congestion string // the server's congestion control, cubic if it is empty
	random     bool   // times differ by much
}

// shortQueue is a queue of 21 packets behind a rate.
const shortQueue = " burst 3100 limit 32000"

// conditions have at most one thing wrong each, besides the delay. bbr is tried where
// cubic is slow.
var conditions = []condition{
	{name: "none"},
	{name: "40ms", delay: "40ms"},
	{name: "loss", delay: "40ms", toClient: "loss 1%", random: true},
	{name: "reorder", delay: "40ms 2ms"},
	{name: "8mbit", delay: "40ms", bottleneck: "rate 8mbit" + shortQueue},
	{name: "16mbit", delay: "40ms", bottleneck: "rate 16mbit" + shortQueue, random: true}, // 2.7 s or 3.6 s
	{name: "bbr-40ms", delay: "40ms", congestion: "bbr"},
	{name: "bbr-loss", delay: "40ms", toClient: "loss 1%", congestion: "bbr", random: true},
	{name: "bbr-reorder", delay: "40ms 2ms", congestion: "bbr"},
	{name: "bbr-8mbit", delay: "40ms", bottleneck: "rate 8mbit" + shortQueue, congestion: "bbr"},
	{name: "bbr-16mbit", delay: "40ms", bottleneck: "rate 16mbit" + shortQueue, congestion: "bbr"},
	// Of the workloads keep-alive and after-idle.
	{name: "20ms", delay: "10ms"},
	{name: "100ms", delay: "50ms"},
	{name: "256kbit", delay: "10ms", bottleneck: "rate 256kbit burst 1600 limit 64000"},
}

// networkOf are the conditions of each workload that has a network.
var networkOf = map[string][]string{
	network:   {"40ms", "16mbit", "8mbit", "reorder", "bbr-40ms", "bbr-16mbit", "bbr-8mbit", "bbr-reorder", "loss", "bbr-loss"},
	keepAlive: {"none", "20ms"},
	afterIdle: {"none", "100ms", "256kbit"},
}

func conditionNames() (names []string) {
	for _, c := range conditions {
		names = append(names, c.name)
	}
	return names
}

func conditionOf(name string) condition {
	for _, c := range conditions {
		if c.name == name {
			return c
		}
	}
	return condition{}
}

// The network: server, router and client are in network namespaces of their own, with
// virtual network cards between them. The server stays in the first namespace. The router
// has the queues, because a queue in front of the sender's own card would hold packets of
// up to 64 KiB, and tell the sender when it drops one.
//
//	eth0 10.1.0.1 --- eth1 router eth2 --- eth3 10.2.0.1
const (
	serverAddress = "10.1.0.1"
	clientAddress = "10.2.0.1"
)

// networkOptions are the options of QEMU for the cards: two hubs of two cards.
func networkOptions() (options []string) {
	for i := range 4 {
		for _, o := range []string{
			"-netdev", fmt.Sprintf("hubport,id=n%d,hubid=%d", i, i/2),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=n%d,mac=52:54:00:00:00:0%d", i, i),
		} {
			options = append(options, "--qemu-arg", o)
		}
	}
	return options
}

// A link is the network of a guest.
type link struct {
	router, client int    // processes in their namespaces
	now            string // the condition that is in place
}

// An order is a command for a namespace: that of a process, or the first if pid is 0.
type order struct {
	pid  int
	line string
}

// tc is that of iproute2, which the guest's busybox must not stand in for.
const tc = "/usr/bin/tc "

func newLink(ctx context.Context) (*link, error) {
	l := new(link)
	for _, pid := range []*int{&l.router, &l.client} {
		cmd := exec.CommandContext(ctx, "sleep", "1000000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		*pid = cmd.Process.Pid
		go func() { _ = cmd.Wait() }()
	}
	err := follow(ctx, []order{
		{0, fmt.Sprintf("ip link set eth1 netns %d", l.router)},
		{0, fmt.Sprintf("ip link set eth2 netns %d", l.router)},
		{0, fmt.Sprintf("ip link set eth3 netns %d", l.client)},
		{0, "ip addr flush dev eth0"}, // what the guest's init has set
		{0, "ip addr add " + serverAddress + "/24 dev eth0"},
		{0, "ip link set eth0 up"},
		{0, "ip route add 10.2.0.0/24 via 10.1.0.2"},
		{0, "sysctl -qw net.ipv4.tcp_no_metrics_save=1"}, // no connection learns from another
		{l.router, "sysctl -qw net.ipv4.ip_forward=1"},
		{l.router, "ip addr add 10.1.0.2/24 dev eth1"},
		{l.router, "ip addr add 10.2.0.2/24 dev eth2"},
		{l.router, "ip link set eth1 up"},
		{l.router, "ip link set eth2 up"},
		{l.client, "ip addr add " + clientAddress + "/24 dev eth3"},
		{l.client, "ip link set eth3 up"},
		{l.client, "ip route add default via 10.2.0.2"},
	})
	if err != nil {
		return nil, err
	}
	// The router must not make large packets of small ones.
	return l, inNamespace(l.router, func() error {
		return errors.Join(setFeature("eth1", unix.ETHTOOL_SGRO, 0), setFeature("eth2", unix.ETHTOOL_SGRO, 0))
	})
}

// set puts a condition in place, with empty queues.
func (l *link) set(ctx context.Context, name string) error {
	if name == l.now {
		return nil
	}
	c := conditionOf(name)
	for _, device := range []string{"eth1", "eth2"} {
		_ = order{l.router, tc + "qdisc del dev " + device + " root"}.follow(ctx) // there may be none
	}
	orders := []order{{0, "sysctl -qw net.ipv4.tcp_congestion_control=" + cmp.Or(c.congestion, "cubic")}}
	if c.delay != "" {
		const netem = " netem limit 10000 delay "
		delay, _, _ := strings.Cut(c.delay, " ") // what the client sends stays in order
		orders = append(orders, order{l.router, tc + "qdisc add dev eth1 root" + netem + delay},
			order{l.router, tc + "qdisc add dev eth2 root handle 1:" + netem + c.delay + " " + c.toClient})
	}
	if c.bottleneck != "" {
		orders = append(orders, order{l.router, tc + "qdisc add dev eth2 parent 1:1 tbf " + c.bottleneck})
	}
	l.now = name
	return follow(ctx, orders)
}

// dial connects to a port of the server, from the client's namespace.
func (l *link) dial(ctx context.Context, _, address string) (connection net.Conn, err error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	err = inNamespace(l.client, func() (err error) {
		connection, err = new(net.Dialer).DialContext(ctx, "tcp4", net.JoinHostPort(serverAddress, port))
		return err
	})
	return connection, err
}

// follow runs orders until one fails.
func follow(ctx context.Context, orders []order) error {
	for _, o := range orders {
		if err := o.follow(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (o order) follow(ctx context.Context) error {
	words := strings.Fields(o.line)
	if o.pid != 0 {
		words = append([]string{"nsenter", "-t", fmt.Sprint(o.pid), "-n"}, words...)
	}
	if output, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", o.line, err, output)
	}
	return nil
}

// inNamespace calls f on a thread in the network namespace of a process. The thread ends
// with f. What f opens stays in that namespace.
func inNamespace(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread is used for nothing else
		done <- func() error {
			namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

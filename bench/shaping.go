package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// A shaping makes a device a network that is worse than loopback. Only virtual machines have one,
// because it is for all that use the device.
type shaping struct {
	device string
	mtu    int    // to go back to
	delay  string // of each packet, as tc writes it
	rate   string // of all connections together; empty for no limit
	each   string // rate of each connection; empty for no limit
}

// shapedQueue is how many packets of a connection wait at most where its rate is limited.
const shapedQueue = 32

// set makes the network so, with the packets of Ethernet. It may be set anew while
// connections use it.
func (s shaping) set(ctx context.Context) error {
	commands := []string{
		"ip link set " + s.device + " mtu 1500",
		"tc qdisc replace dev " + s.device + " root handle 1: netem limit 1000000 delay " + s.delay,
	}
	if s.rate != "" {
		commands[1] += " rate " + s.rate
	}
	if s.each != "" {
		commands = append(commands, fmt.Sprintf("tc qdisc replace dev %s parent 1:1 handle 2: fq limit 1000000 flow_limit %d maxrate %s",
			s.device, shapedQueue, s.each))
	}
	return s.commands(ctx, commands)
}

func (s shaping) reset(ctx context.Context) error {
	return s.commands(ctx, []string{
		"tc qdisc del dev " + s.device + " root",
		fmt.Sprintf("ip link set %s mtu %d", s.device, s.mtu),
	})
}

func (s shaping) commands(ctx context.Context, commands []string) error {
	for _, command := range commands {
		words := strings.Fields(command)
		if output, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, output)
		}
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// A link is a network that is worse than loopback. Only virtual machines have one,
// because it is for all that use the device.
type link struct {
	device string
	mtu    int    // to go back to
	delay  string // of each packet, as tc writes it
	rate   string // of all connections together; empty for no limit
	each   string // rate of each connection; empty for no limit
}

// linkQueue is how many packets of a connection wait at most where its rate is limited.
const linkQueue = 32

// set makes the network so, with the packets of Ethernet. It may be set anew while
// connections use it.
func (l link) set(ctx context.Context) error {
	commands := []string{
		"ip link set " + l.device + " mtu 1500",
		"tc qdisc replace dev " + l.device + " root handle 1: netem limit 1000000 delay " + l.delay,
	}
	if l.rate != "" {
		commands[1] += " rate " + l.rate
	}
	if l.each != "" {
		commands = append(commands, fmt.Sprintf("tc qdisc replace dev %s parent 1:1 handle 2: fq limit 1000000 flow_limit %d maxrate %s",
			l.device, linkQueue, l.each))
	}
	return l.commands(ctx, commands)
}

func (l link) reset(ctx context.Context) error {
	return l.commands(ctx, []string{
		"tc qdisc del dev " + l.device + " root",
		fmt.Sprintf("ip link set %s mtu %d", l.device, l.mtu),
	})
}

func (l link) commands(ctx context.Context, commands []string) error {
	for _, command := range commands {
		words := strings.Fields(command)
		if output, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, output)
		}
	}
	return nil
}

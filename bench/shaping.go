package main

import (
	"context"
	"fmt"
)

// A shaping makes a device a network that is worse than loopback. Only virtual machines
// have one, because it is for all that use the device.
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
	netem := tc + "qdisc replace dev " + s.device + " root handle 1: netem limit 1000000 delay " + s.delay
	if s.rate != "" {
		netem += " rate " + s.rate
	}
	orders := []order{{0, "ip link set " + s.device + " mtu 1500"}, {0, netem}}
	if s.each != "" {
		orders = append(orders, order{0, fmt.Sprintf("%sqdisc replace dev %s parent 1:1 handle 2: fq limit 1000000 flow_limit %d maxrate %s",
			tc, s.device, shapedQueue, s.each)})
	}
	return follow(ctx, orders)
}

func (s shaping) reset(ctx context.Context) error {
	return follow(ctx, []order{
		{0, tc + "qdisc del dev " + s.device + " root"},
		{0, fmt.Sprintf("ip link set %s mtu %d", s.device, s.mtu)},
	})
}

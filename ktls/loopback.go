package ktls

import (
	"context"
	"errors"
	"net"
	"time"
)

// loopback returns the two ends of a TCP connection within the machine. It does not rely
// on 127.0.0.1, because a network namespace may be without it.
func loopback() (near, far *net.TCPConn, err error) { return connected(localHosts()) }

// localHosts returns the addresses of the machine, beginning with those of the loopback
// interface.
func localHosts() []string {
	hosts := []string{"127.0.0.1", "::1"}
	if addresses, err := net.InterfaceAddrs(); err == nil {
		for _, address := range addresses {
			if prefix, ok := address.(*net.IPNet); ok && !prefix.IP.IsLoopback() && !prefix.IP.IsLinkLocalUnicast() {
				hosts = append(hosts, prefix.IP.String())
			}
		}
	}
	return hosts
}

// connected connects to the first host where that works.
func connected(hosts []string) (near, far *net.TCPConn, err error) {
	var all error
	for _, host := range hosts {
		if near, far, err = connectedAt(host); err == nil {
			return near, far, nil
		}
		all = errors.Join(all, err)
	}
	return nil, nil, all
}

// connectTimeout limits a connection within the machine, which takes a moment only.
const connectTimeout = 10 * time.Second

func connectedAt(host string) (near, far *net.TCPConn, err error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	ln, err := config.Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	dialer := net.Dialer{Timeout: connectTimeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	near = conn.(*net.TCPConn)
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(connectTimeout))
	far, err = ln.(*net.TCPListener).AcceptTCP()
	if err != nil {
		near.Close()
		return nil, nil, err
	}
	if far.RemoteAddr().String() != near.LocalAddr().String() {
		near.Close()
		far.Close()
		return nil, nil, errors.New("another process has connected")
	}
	return near, far, nil
}

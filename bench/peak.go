package main

import (
	"fmt"
	"os"
	"time"
)

// A peak is the most that processes have had since it began.
type peak struct {
	stop, done chan struct{}
	threads    int64
	resident   float64 // bytes
}

// watch looks at processes until end is called.
func watch(pids []int) *peak {
	u := &peak{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(u.done)
		for {
			u.look(pids)
			select {
			case <-u.stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return u
}

func (u *peak) look(pids []int) {
	var threads int64
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		n, _ := procNumber(string(text), "Threads")
		threads += n
	}
	resident, _ := residentSet(pids)
	u.threads, u.resident = max(u.threads, threads), max(u.resident, resident)
}

func (u *peak) end() (threads int64, resident float64) {
	close(u.stop)
	<-u.done
	return u.threads, u.resident
}

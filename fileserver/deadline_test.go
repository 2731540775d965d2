package fileserver

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// A deadlineSpy is a server's writer that is told of deadlines.
type deadlineSpy struct {
	http.ResponseWriter
	told chan time.Time
}

func (d deadlineSpy) SetWriteDeadline(t time.Time) error {
	d.told <- t
	return nil
}

// The server has the deadline before the stream is taken over and after the handler has
// returned; between these it has none, and is told when it has passed.
func TestWriteDeadline(t *testing.T) {
	never, one, other, past := time.Time{}, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour), time.Unix(1, 0)
	set := func(deadline time.Time) func(*writeDeadline) {
		return func(d *writeDeadline) { _ = d.set(deadline) }
	}
	own, done := (*writeDeadline).take, (*writeDeadline).giveBack
	for _, tt := range []struct {
		name  string
		calls []func(*writeDeadline)
		told  []time.Time
	}{
		{"not taken over", []func(*writeDeadline){set(one), set(never), done, set(other)}, []time.Time{one, never, other}},
		{"taken over", []func(*writeDeadline){set(one), own, set(other), set(never), set(one)}, []time.Time{one, never}},
		{"done", []func(*writeDeadline){set(one), own, set(other), done, set(one), done}, []time.Time{one, never, other, one}},
		{"done without one", []func(*writeDeadline){set(one), own, set(never), done}, []time.Time{one, never}},
		{"one from before", []func(*writeDeadline){own, set(other), set(one), done}, []time.Time{never, one}},
		{"taken over after all", []func(*writeDeadline){done, set(one), own, set(other)}, []time.Time{one, other}},
		{"passed", []func(*writeDeadline){own, set(past), wait, done, set(one)}, []time.Time{never, past, one}},
		{"passed before it is taken over", []func(*writeDeadline){set(past), own, wait, done}, []time.Time{past, never, past}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spy := deadlineSpy{told: make(chan time.Time, 10)}
			d := &writeDeadline{server: spy}
			for _, call := range tt.calls {
				call(d)
			}
			close(spy.told)
			var told []time.Time
			for deadline := range spy.told {
				told = append(told, deadline)
			}
			if !slices.Equal(told, tt.told) {
				t.Errorf("the server is told %v\nwant %v", told, tt.told)
			}
		})
	}
}

// wait waits until the deadline has passed.
func wait(d *writeDeadline) {
	for {
		d.mu.Lock()
		past := d.past
		d.mu.Unlock()
		if past {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

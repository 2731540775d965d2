package benchmark

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// A child is a process that answers questions: a line of JSON for a line of JSON.
type child struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.Closer
	ask     *json.Encoder
	answers *json.Decoder
	log     tail
	ended   sync.Once
}

// An answer is what a child answers with.
type answer[T any] struct {
	Error string `json:"error,omitempty"`
	Value T      `json:"value"`
}

// start runs this binary with the hidden command `caddy ktls bench COMMAND`. What it
// keeps, it keeps in dir.
func start(name, command, dir string) (*child, error) {
	// Unlike the path of the binary, this is the same one also if that was replaced.
	c := &child{name: name, cmd: exec.Command("/proc/self/exe", "ktls", "bench", command)}
	c.cmd.Dir = dir
	c.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	c.cmd.Stderr = &c.log
	in, err1 := c.cmd.StdinPipe()
	out, err2 := c.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, c.cmd.Start()); err != nil {
		return nil, err
	}
	c.stdin, c.ask, c.answers = in, json.NewEncoder(in), json.NewDecoder(out)
	return c, nil
}

// ask asks a child, and waits for its answer: no longer than limit, unless that is 0.
func ask[T any](c *child, question any, limit time.Duration) (T, error) {
	if limit > 0 {
		timer := time.AfterFunc(limit, c.end)
		defer timer.Stop()
	}
	var a answer[T]
	err := c.ask.Encode(question)
	if err == nil {
		err = c.answers.Decode(&a)
	}
	switch {
	case err != nil:
		c.end() // then its log is complete
		return a.Value, fmt.Errorf("the %s has ended: %w\n%s", c.name, err, c.log.text())
	case a.Error != "":
		return a.Value, fmt.Errorf("the %s: %s", c.name, a.Error)
	}
	return a.Value, nil
}

// end ends the process, and returns when it has ended.
func (c *child) end() {
	c.ended.Do(func() {
		_ = c.stdin.Close()
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})
}

// Children are the processes of a measurement. None starts after they were ended.
type children struct {
	mu    sync.Mutex
	all   []*child
	ended bool
}

var errEnded = errors.New("interrupted")

func (c *children) start(name, command, dir string) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, errEnded
	}
	one, err := start(name, command, dir)
	if err == nil {
		c.all = append(c.all, one)
	}
	return one, err
}

// end ends all of them, and returns when they have ended.
func (c *children) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, one := range c.all {
		one.end()
	}
}

// A tail keeps the end of a log.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailLen = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-tailLen):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept))
}

// hidden returns a command that only this package calls. It answers each question until
// there are no more.
func hidden[Q, A any](name string, answerTo func(Q) (A, error)) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: "Is a part of bench", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			questions, answers := json.NewDecoder(cmd.InOrStdin()), json.NewEncoder(cmd.OutOrStdout())
			for {
				var q Q
				switch err := questions.Decode(&q); {
				case errors.Is(err, io.EOF):
					return nil
				case err != nil:
					return err
				}
				// Ctrl-C reaches the whole group of processes. The command ends its parts.
				signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
				var a answer[A]
				var err error
				if a.Value, err = answerTo(q); err != nil {
					a.Error = err.Error()
				}
				if err := answers.Encode(a); err != nil {
					return err
				}
			}
		},
	}
}

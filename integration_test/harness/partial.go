package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A Partial says how a download has ended.
type Partial struct {
	Got []byte
	Err error
}

// ReadPartial gets a file, or as much of it as comes.
func ReadPartial(client *http.Client, url string) Partial {
	resp, err := client.Get(url)
	if err != nil {
		return Partial{nil, err}
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	_, err = got.ReadFrom(resp.Body)
	return Partial{got.Bytes(), err}
}

// Beginning is how the text of [Partial.Is] begins for a body that was cut.
const Beginning = "its beginning, "

// Is says what has come of a file: all of it, or its beginning and an error.
func (p Partial) Is(f File) string {
	switch {
	case p.Err == nil && DigestOf(p.Got) == f.Digest:
		return "whole"
	case p.Err == nil:
		return fmt.Sprintf("%d bytes as if they were all", len(p.Got))
	case !bytes.HasPrefix(f.Content, p.Got):
		return fmt.Sprintf("%d bytes that are not the file's, %v", len(p.Got), p.Err)
	}
	return Beginning + Plain(p.Err)
}

// IsCut returns "cut" for a file that was cut, whatever the error is. Otherwise it
// returns what Is returns.
func (p Partial) IsCut(t testing.TB, f File) string {
	how := p.Is(f)
	t.Log(how)
	if strings.HasPrefix(how, Beginning) {
		return "cut"
	}
	return how
}

// WantBeginning fails the test unless a file was cut and the client knows it.
func (p Partial) WantBeginning(t testing.TB, f File) {
	t.Helper()
	if p.Err == nil || !bytes.HasPrefix(f.Content, p.Got) {
		t.Errorf("%d bytes, %v; want a beginning of the file, and an error", len(p.Got), p.Err)
	}
}

// Plain returns the text of an error without addresses.
func Plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err.Error()
}

// SameAsStock does something with the site and with the one without the module. It fails
// the test unless both give the same result.
func (c *Caddy) SameAsStock(t testing.TB, do func(s Site) string) string {
	t.Helper()
	ours, stock := do(c.Site), do(c.Stock())
	if ours != stock {
		t.Errorf("it comes to this: %s; without the module to this: %s", ours, stock)
	}
	return ours
}

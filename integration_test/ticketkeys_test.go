package integration_test

import (
	"bytes"
	"crypto/tls"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// twoKeys has Caddy keep the current ticket key and the one before, in its
// storage.
const twoKeys = `{"key_source": {"provider": "distributed"}, "max_keys": 2}`

// startWithTickets is start with session_tickets, which Caddyfiles can't have.
func (c *caddy) startWithTickets(t testing.TB, caddyfile, tickets string) {
	t.Helper()
	c.start(t, "")
	var adapted struct{ Result map[string]map[string]any }
	answer := c.admin(t, http.MethodPost, "/adapt", "text/caddyfile", c.complete(caddyfile))
	if err := json.Unmarshal(answer, &adapted); err != nil {
		t.Fatal(err)
	}
	adapted.Result["apps"]["tls"] = map[string]any{"session_tickets": json.RawMessage(tickets)}
	config, err := json.Marshal(adapted.Result)
	if err != nil {
		t.Fatal(err)
	}
	c.admin(t, http.MethodPost, "/load", "application/json", string(config))
	eventually(t, "Caddy has its certificates", c.isReady)
}

func (c *caddy) storage() string { return filepath.Join(c.dir, "caddy") }

// ticketKeys is what Caddy stores.
type ticketKeys struct {
	Keys         [][32]byte // the current one first
	NextRotation time.Time
}

func (c *caddy) ticketKeys(t testing.TB) (keys ticketKeys) {
	t.Helper()
	data, err := os.ReadFile(c.keyFile())
	if err == nil {
		err = gob.NewDecoder(bytes.NewReader(data)).Decode(&keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (c *caddy) keyFile() string { return filepath.Join(c.storage(), "stek/stek.bin") }

// rotate makes it time for Caddy to rotate the ticket keys, and waits until the
// new one is in use, also at stockSite.
func (c *caddy) rotate(t testing.TB) {
	t.Helper()
	old := c.ticketKeys(t)
	next := old
	next.NextRotation = time.Now().Add(time.Second)
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(next); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.keyFile(), data.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	// Caddy reads that when it loads a configuration, and loads one that differs.
	interval := fmt.Sprint(time.Now().UnixNano())
	c.admin(t, http.MethodPost, "/config/apps/tls/session_tickets/rotation_interval", "application/json", interval)
	eventually(t, "a new ticket key is in use", func() error {
		keys := c.ticketKeys(t).Keys
		if keys[0] == old.Keys[0] {
			return fmt.Errorf("there is none")
		}
		s := new(session)
		conn, err := tls.Dial("tcp", "127.0.0.1:"+c.getenv("PORT2"), c.resuming(t, tls.VersionTLS12, s))
		if err != nil {
			return err
		}
		defer conn.Close()
		ticket, _, err := s.state.ResumptionState()
		if err != nil {
			return err
		}
		current := new(tls.Config)
		current.SetSessionTicketKeys(keys[:1])
		if opened, err := current.DecryptTicket(ticket, conn.ConnectionState()); opened == nil {
			return fmt.Errorf("tickets are sealed with another: %v", err)
		}
		return nil
	})
}

// stockSite is without the module.
const stockSite = `
https://localhost:{$PORT2} {
	root {$ROOT}
	file_server
}`

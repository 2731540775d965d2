package harness

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

	"github.com/caddy-ktls/caddy-ktls/internal/testutil"
)

// TwoKeys makes Caddy keep the current ticket key and the one before, in its storage.
const TwoKeys = `{"key_source": {"provider": "distributed"}, "max_keys": 2}`

// StartWithTickets is Start with session_tickets, which a Caddyfile can't have.
func StartWithTickets(t testing.TB, c *Caddy, caddyfile, tickets string) {
	t.Helper()
	c.Start(t, "")
	var adapted struct{ Result map[string]map[string]any }
	answer := c.Admin(t, http.MethodPost, "/adapt", "text/caddyfile", c.complete(caddyfile))
	testutil.Must(t, json.Unmarshal(answer, &adapted))
	adapted.Result["apps"]["tls"] = map[string]any{"session_tickets": json.RawMessage(tickets)}
	config, err := json.Marshal(adapted.Result)
	testutil.Must(t, err)
	c.Admin(t, http.MethodPost, "/load", "application/json", string(config))
	testutil.Eventually(t, "Caddy has its certificates", c.Ready)
}

// ticketKeys is what Caddy stores.
type ticketKeys struct {
	Keys         [][32]byte // the current one first
	NextRotation time.Time
}

func readTicketKeys(t testing.TB, c *Caddy) (keys ticketKeys) {
	t.Helper()
	data, err := os.ReadFile(ticketKeyFile(c))
	if err == nil {
		err = gob.NewDecoder(bytes.NewReader(data)).Decode(&keys)
	}
	testutil.Must(t, err)
	return keys
}

func ticketKeyFile(c *Caddy) string { return filepath.Join(c.Storage(), "stek/stek.bin") }

// RotateTicketKeys makes Caddy rotate the ticket keys, and waits until the new key is in
// use, at StockSite too.
func RotateTicketKeys(t testing.TB, c *Caddy) {
	t.Helper()
	old := readTicketKeys(t, c)
	next := old
	next.NextRotation = time.Now().Add(time.Second)
	var data bytes.Buffer
	testutil.Must(t, gob.NewEncoder(&data).Encode(next))
	testutil.Must(t, os.WriteFile(ticketKeyFile(c), data.Bytes(), 0o600))
	// Caddy reads the storage when it loads a configuration, and loads only one that
	// differs.
	interval := fmt.Sprint(time.Now().UnixNano())
	c.Admin(t, http.MethodPost, "/config/apps/tls/session_tickets/rotation_interval", "application/json", interval)
	testutil.Eventually(t, "a new ticket key is in use", func() error {
		keys := readTicketKeys(t, c).Keys
		if keys[0] == old.Keys[0] {
			return fmt.Errorf("there is none")
		}
		s := new(Session)
		conn, err := tls.Dial("tcp", c.Stock().Address(), c.Resuming(t, tls.VersionTLS12, s))
		if err != nil {
			return err
		}
		defer conn.Close()
		ticket, _, err := s.State.ResumptionState()
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

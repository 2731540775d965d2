// Package asynccipher makes the kernel encrypt TLS records with asynchronous ciphers, as
// it does where a device or another processor encrypts. The call that sends may then
// return before the record is encrypted.
package asynccipher

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Env is the environment variable that, if not empty, makes tests begin with Use.
const Env = "KTLS_ASYNC"

// UseIfAsked calls Use if Env is set. It is for TestMain.
func UseIfAsked() error {
	if os.Getenv(Env) == "" {
		return nil
	}
	return Use()
}

// The kernel's names of the ciphers that TLS uses.
const (
	AESGCM           = "gcm(aes)"
	ChaCha20Poly1305 = "rfc7539(chacha20,poly1305)"
)

// prefix is how the names of drivers begin that the kernel's module pcrypt makes of
// others. They spread the work over the processors.
const prefix = "pcrypt("

// Use has all kernel TLS connections that begin from now on, of whatever process, use
// asynchronous ciphers, until the module pcrypt is removed. It needs the modules pcrypt and
// algif_aead. A second call changes nothing.
func Use() error {
	for _, cipher := range []string{AESGCM, ChaCha20Poly1305} {
		if err := instantiate(cipher); err != nil {
			return err
		}
		driver, _, err := find(cipher)
		if err != nil {
			return err
		}
		if strings.HasPrefix(driver, prefix) {
			continue
		}
		// By the name of the driver: what the kernel has made by another name it does not
		// find, and makes more.
		if err := instantiate(prefix + driver + ")"); err != nil {
			return err
		}
		if driver, _, err = find(cipher); err != nil {
			return err
		}
		if !strings.HasPrefix(driver, prefix) {
			return fmt.Errorf("for %s, the kernel takes %s", cipher, driver)
		}
	}
	return nil
}

// InUse reports whether connections have an asynchronous form of a cipher.
func InUse(cipher string) (bool, error) {
	driver, users, err := find(cipher)
	return strings.HasPrefix(driver, prefix) && users > 1, err
}

// instantiate has the kernel make an algorithm.
func instantiate(algorithm string) error {
	fd, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("bind "+algorithm, unix.Bind(fd, &unix.SockaddrALG{Type: "aead", Name: algorithm}))
}

// find returns the driver of a cipher that the kernel takes, which is the one with the
// highest priority. users is 1 if nobody uses it.
func find(cipher string) (driver string, users int, err error) {
	list, err := os.ReadFile("/proc/crypto")
	if err != nil {
		return "", 0, err
	}
	highest := -1
	for entry := range strings.SplitSeq(string(list), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(entry) {
			name, value, _ := strings.Cut(line, ":")
			fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
		priority, err := strconv.Atoi(fields["priority"])
		if err != nil || fields["name"] != cipher || priority <= highest {
			continue
		}
		highest, driver = priority, fields["driver"]
		if users, err = strconv.Atoi(fields["refcnt"]); err != nil {
			return "", 0, err
		}
	}
	return driver, users, nil
}

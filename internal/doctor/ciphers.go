package doctor

import (
	"cmp"
	"slices"
	"strings"
)

// cipherFacts are the result of a connection with one version of TLS and one cipher.
type cipherFacts struct {
	TLS      string `json:"tls"`
	Cipher   string `json:"cipher"`
	Works    bool   `json:"works"`
	SendFile bool   `json:"sendfile"`
	Rekey    bool   `json:"rekey"`
	Error    string `json:"error"`

	cause  string // of the error, in words
	broken bool   // the kernel takes the cipher, but it does not work
	inert  bool   // the kernel says that it takes the cipher, and does nothing
}

func (c cipherFacts) name() string { return "TLS " + c.TLS + " with " + c.Cipher }

// anyCipher reports whether f is true of any of the ciphers.
func (r *report) anyCipher(f func(cipherFacts) bool) bool { return slices.ContainsFunc(r.Ciphers, f) }

func inert(c cipherFacts) bool    { return c.inert }
func broken(c cipherFacts) bool   { return c.broken }
func works(c cipherFacts) bool    { return c.Works }
func sendFile(c cipherFacts) bool { return c.SendFile }
func rekey(c cipherFacts) bool    { return c.Rekey }

// judgeSandbox sets the verdict for a kernel that takes keys and encrypts nothing. The
// state of the module tls says nothing about such a kernel.
func (r *report) judgeSandbox() {
	r.add("ciphers", stateFail, "the kernel takes keys and encrypts nothing, as a sandbox such as gVisor does",
		"run Caddy outside of the sandbox, or without this module: inside, connections stay in user space")
	r.Verdict = "no kernel TLS: the kernel, or a sandbox around this program, takes keys and encrypts nothing"
}

// judgeCiphers sets the verdict.
func (r *report) judgeCiphers() {
	if !r.anyCipher(works) {
		r.judgeNoCipher()
		return
	}
	r.judgeVersion("1.3")
	r.judgeVersion("1.2")
	r.judgeMissing()
	if r.anyCipher(sendFile) {
		r.add("sendfile", stateOK, "works")
	} else {
		r.add("sendfile", stateWarn, "does not work on the file system of this program; files on such a file system are copied")
	}
	if r.anyCipher(rekey) {
		r.add("rekey", stateOK, "works")
	} else {
		r.add("rekey", stateNote, "no: a client that asks for a new key (rare) gets its response, then the connection is closed; from Linux 6.14 on it works")
	}
	if r.anyCipher(broken) {
		r.addBroken()
		r.Verdict = "kernel TLS is faulty here: don't use it"
		return
	}
	r.Works, r.Verdict = true, "kernel TLS works here"
}

// judgeNoCipher sets the verdict if no cipher works. If the module's state is not the
// reason, the report shows the first error.
func (r *report) judgeNoCipher() {
	why := moduleReasons[r.Module.State]
	if why == "" || r.anyCipher(broken) {
		why = "no connection could be offloaded"
		first := "nothing was tried"
		if len(r.Ciphers) > 0 {
			first = r.Ciphers[0].Error
			why = cmp.Or(r.Ciphers[0].cause, why)
		}
		r.add("ciphers", stateFail, first)
	}
	r.Verdict = "no kernel TLS: " + why
}

// judgeVersion lists the ciphers that work with a version of TLS.
func (r *report) judgeVersion(version string) {
	var names []string
	for _, c := range r.Ciphers {
		if c.Works && c.TLS == version {
			names = append(names, c.Cipher)
		}
	}
	if len(names) == 0 {
		r.add("TLS "+version, stateWarn, "none; such connections stay in user space")
		return
	}
	r.add("TLS "+version, stateOK, strings.Join(names, ", "))
}

// chaCha is the cipher that FIPS 140 does not approve.
const chaCha = "ChaCha20-Poly1305"

// judgeMissing lists the ciphers that the kernel does not have. What is missing because of
// FIPS mode was told already, and no module brings it.
func (r *report) judgeMissing() {
	var names []string
	for _, c := range r.Ciphers {
		if forbidden := (r.Kernel.FIPS || r.Go.FIPS) && c.Cipher == chaCha; !c.Works && !c.broken && !forbidden {
			names = append(names, c.name())
		}
	}
	if len(names) > 0 {
		r.add("ciphers", stateNote, "not in this kernel: "+strings.Join(names, ", ")+"; such connections stay in user space",
			"modules for them may be missing: sudo modprobe -a gcm chacha20poly1305")
	}
}

func (r *report) addBroken() {
	for _, c := range r.Ciphers {
		if c.broken {
			r.add("ciphers", stateFail, c.name()+": "+c.Error)
		}
	}
}

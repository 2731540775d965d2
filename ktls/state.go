package ktls

// A State says whether a connection is offloaded to the kernel, and if not, why. There
// are few states and their words are fixed, because they serve as metric labels and log
// fields.
type State uint8

// The states. In all but [Offloaded] crypto/tls makes the records.
const (
	// NotNeeded: nobody has asked for the offload so far. Only this state may change.
	NotNeeded State = iota
	// Offloaded: the kernel makes the records.
	Offloaded
	// KernelUnsupported: the probe found no kernel TLS.
	KernelUnsupported
	// NotTCP: the connection below TLS is not a *net.TCPConn, or it speaks Multipath TCP.
	NotTCP
	// TLSVersion: the negotiated version is older than TLS 1.2.
	TLSVersion
	// Cipher: the kernel can't do the negotiated cipher suite.
	Cipher
	// NoSecret: crypto/tls has reported no secret.
	NoSecret
	// SequenceUnproven: the record that should prove the sequence number is not authentic
	// under any possible number.
	SequenceUnproven
	// Closing: an alert has been written, or a write has failed.
	Closing
	// KernelRefused: a system call of the offload has failed.
	KernelRefused
	// KernelUntrusted: the kernel, or a sandbox around the process, reported success but
	// did not do what it was told. After the first such connection, no connection is
	// offloaded until [ProbeAgain].
	KernelUntrusted
	// FIPS: GODEBUG=fips140=only forbids what the proof of the sequence number needs.
	FIPS

	numStates
)

var stateWords = [numStates]string{
	NotNeeded:         "not_needed",
	Offloaded:         "offloaded",
	KernelUnsupported: "kernel_unsupported",
	NotTCP:            "not_tcp",
	TLSVersion:        "tls_version",
	Cipher:            "cipher",
	NoSecret:          "no_secret",
	SequenceUnproven:  "sequence_unproven",
	Closing:           "closing",
	KernelRefused:     "kernel_refused",
	KernelUntrusted:   "kernel_untrusted",
	FIPS:              "fips",
}

// States returns all states.
func States() []State {
	all := make([]State, numStates)
	for i := range all {
		all[i] = State(i)
	}
	return all
}

// String returns the state's word.
func (s State) String() string {
	if s < numStates {
		return stateWords[s]
	}
	return "unknown"
}

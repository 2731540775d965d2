package doctor

// facts are what findFacts finds out. The JSON names are documented in the
// command's help.
type facts struct {
	OS              string        `json:"os"`
	Kernel          kernelFacts   `json:"kernel"`
	Go              goFacts       `json:"go"`
	Container       string        `json:"container"`
	Module          moduleFacts   `json:"module"`
	Ciphers         []cipherFacts `json:"ciphers"`
	HTTP            []HTTPFault   `json:"http"`
	Interfaces      []string      `json:"interfaces"`
	FileDescriptors uint64        `json:"file_descriptors"`
}

package doctor

// facts are what findFacts finds out. The help of the command documents the JSON names.
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

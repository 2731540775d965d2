package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Results are everything that a run has found, and what it was found with.
type Results struct {
	Mode       string      `json:"mode"` // native or counted
	Started    time.Time   `json:"started"`
	Finished   time.Time   `json:"finished"`
	Partial    bool        `json:"partial"` // not all that was asked for
	Parameters Parameters  `json:"parameters"`
	Machine    Machine     `json:"machine"`
	Notes      []string    `json:"notes,omitempty"`
	Samples    []Sample    `json:"samples"`
	Kernels    []KernelRun `json:"kernels"`
}

// A KernelRun is a kernel that was measured.
type KernelRun struct {
	Name    string `json:"name"`    // as in -kernels
	Release string `json:"release"` // as in uname -r
}

// note adds a note, once.
func (r *Results) note(format string, arguments ...any) {
	if s := fmt.Sprintf(format, arguments...); !slices.Contains(r.Notes, s) {
		r.Notes = append(r.Notes, s)
	}
}

// merge adds what another run of the same mode has found, of cases that r doesn't have.
func (r *Results) merge(other *Results) error {
	if r.Mode != other.Mode {
		return fmt.Errorf("a %s run and a %s run can't be merged", r.Mode, other.Mode)
	}
	have := map[Case]bool{}
	for _, s := range r.Samples {
		have[s.on("")] = true
	}
	for _, s := range other.Samples {
		if !have[s.on("")] {
			r.Samples = append(r.Samples, s)
		}
	}
	for _, k := range other.Kernels {
		r.Kernels = addOnce(r.Kernels, k)
	}
	r.Partial = r.Partial || other.Partial
	for _, n := range other.Notes {
		r.note("%s", n)
	}
	slices.SortFunc(r.Kernels, func(a, b KernelRun) int { return kernelOrder(a.Name) - kernelOrder(b.Name) })
	return nil
}

// readResults reads results.json of each folder and merges them.
func readResults(dirs []string) (*Results, error) {
	var all *Results
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "results.json"))
		if err != nil {
			return nil, err
		}
		r := new(Results)
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("%s/results.json: %w", dir, err)
		}
		if all == nil {
			all = r
		} else if err := all.merge(r); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if all == nil {
		return nil, errors.New("no folder with results.json is named")
	}
	return all, nil
}

// save writes results.json. A run does that after every sample.
func (r *Results) save(dir string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, "results.json"), append(text, '\n'))
}

// replaceFile writes a file so that it is never there in part.
func replaceFile(name string, text []byte) error {
	if err := os.WriteFile(name+".part", text, 0o644); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}

// write writes all that is made of the results.
func (r *Results) write(dir string) error {
	if err := r.save(dir); err != nil {
		return err
	}
	for name, write := range map[string]func(*bytes.Buffer) error{"benchstat.txt": r.benchstat, "report.md": r.report} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return err
		}
		if err := replaceFile(filepath.Join(dir, name), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

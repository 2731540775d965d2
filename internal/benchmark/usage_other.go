//go:build !linux

package benchmark

import "errors"

func processUsage() (usage, error) { return usage{}, errors.ErrUnsupported }

func processor() (model string, features []string) { return "", nil }

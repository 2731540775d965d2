package main

import (
	"math"
	"slices"
)

// A summary describes repeated measurements of one value.
type summary struct {
	n                int
	median, min, max float64
}

// summarize returns the zero summary for no values.
func summarize(values []float64) summary {
	if len(values) == 0 {
		return summary{}
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return summary{n, (s[(n-1)/2] + s[n/2]) / 2, s[0], s[n-1]}
}

// percentile returns the smallest value that at least the given part (0 to 1) of
// the values does not exceed, or NaN for no values.
func percentile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	i := int(math.Ceil(part*float64(len(s)))) - 1
	return s[min(max(i, 0), len(s)-1)]
}

// A key is a value of a case.
type key struct {
	Case
	unit string
}

// values returns what was measured, by case and unit.
func (r *Results) values() map[key][]float64 {
	values := map[key][]float64{}
	for _, s := range r.Samples {
		for unit, v := range s.Values {
			k := key{s.Case, unit}
			values[k] = append(values[k], v)
		}
	}
	return values
}

// summaries returns values summarized.
func (r *Results) summaries() map[key]summary {
	summaries := map[key]summary{}
	for k, v := range r.values() {
		summaries[k] = summarize(v)
	}
	return summaries
}

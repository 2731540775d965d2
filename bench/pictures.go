package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// drawAll draws what the results have and returns the names of the pictures.
func drawAll(r *Results, dir string) ([]string, error) {
	d := drawing{dir: dir, r: r, summaries: r.summaries()}
	for _, protocol := range allProtocols {
		for _, k := range r.Kernels {
			if r.Mode == "counted" {
				d.bySize(k.Name, protocol, "instr/KiB", "instructions per KiB")
			} else {
				d.bySize(k.Name, protocol, "cpu-s/GiB", "CPU time, seconds per GiB")
				d.againstThroughput(k.Name, protocol)
			}
		}
		for _, unit := range []string{"instr/KiB", "cpu-s/GiB"} {
			d.byKernel(protocol, unit)
		}
	}
	d.bars(memory, "traffic-B/B", "memory-traffic", "Memory traffic of the machine", "bytes per byte of body")
	d.bars(syscalls, "border-B/B", "border", "Copied between user space and kernel", "bytes per byte of body")
	return d.names, d.err
}

// A drawing collects pictures. After an error it draws no more.
type drawing struct {
	dir       string
	r         *Results
	summaries map[key]summary
	names     []string
	err       error
}

func (d *drawing) save(p *plot.Plot, legend plot.Legend, name string) {
	if d.err == nil {
		d.err = save(p, legend, d.dir, name)
		d.names = append(d.names, name)
	}
}

func writeCanvas(canvas io.WriterTo, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := canvas.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// connections returns the number of connections with the most sizes, of equals
// that next to 16.
func (d *drawing) connections(kernel, protocol, unit string) int {
	sizes := map[int]int{}
	for k := range d.summaries {
		if k.Workload == transfer && k.Kernel == kernel && k.Protocol == protocol && k.unit == unit {
			sizes[k.Connections]++
		}
	}
	best := 0
	for _, n := range []int{16, 1, 256} {
		if sizes[n] > sizes[best] {
			best = n
		}
	}
	for n := range sizes {
		if best == 0 || sizes[n] > sizes[best] {
			best = n
		}
	}
	return best
}

// bySize draws the cost by the size of bodies, with the spread.
func (d *drawing) bySize(kernel, protocol, unit, label string) {
	connections := d.connections(kernel, protocol, unit)
	first := d.r.Parameters.Ciphers[0]
	p := newPlot(fmt.Sprintf("Cost by size, %s\nkernel %s, %d connection%s", protocolTitles[protocol], kernel, connections, plural(connections)),
		"size of the body", label)
	legend := newLegend(p)
	low, high, sizes := math.Inf(1), 0.0, []int64{}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, gridColor
	p.Add(grid)
	for _, server := range allServers {
		var points spread
		for _, size := range d.r.sizes() {
			c := Case{kernel, transfer, protocol, size, connections, first, server}
			s := d.summaries[c.key(server, unit)]
			if s.n == 0 || s.min <= 0 {
				continue
			}
			points.XYs = append(points.XYs, plotter.XY{X: float64(size), Y: s.median})
			points.errors = append(points.errors, struct{ Low, High float64 }{s.median - s.min, s.max - s.median})
			low, high = min(low, s.min), max(high, s.max)
			if !slices.Contains(sizes, size) {
				sizes = append(sizes, size)
			}
		}
		if len(points.XYs) > 0 {
			d.addLine(p, &legend, server, points)
		}
	}
	if len(sizes) < 2 {
		return
	}
	useLog(&p.Y, low, high)
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, sizeTicks{sizes}
	p.X.Min, p.X.Max = float64(slices.Min(sizes))/1.6, float64(slices.Max(sizes))*1.6
	d.save(p, legend, fmt.Sprintf("cost-by-size-%s-%s", protocol, fileName(kernel)))
}

// spread are points with error bars.
type spread struct {
	plotter.XYs
	errors plotter.YErrors
}

func (s spread) YError(i int) (float64, float64) { return s.errors[i].Low, s.errors[i].High }

func (d *drawing) addLine(p *plot.Plot, legend *plot.Legend, server string, points spread) {
	line, dots, err := plotter.NewLinePoints(points.XYs)
	if err != nil {
		d.err = err
		return
	}
	line.Color, dots.Color = serverColors[server], serverColors[server]
	line.Width = vg.Points(1.5)
	dots.Shape, dots.Radius = serverShapes[server], vg.Points(3.5)
	bars, err := plotter.NewYErrorBars(points)
	if err != nil {
		d.err = err
		return
	}
	bars.Color = serverColors[server]
	p.Add(line, bars, dots)
	legend.Add(serverTitles[server], line, dots)
}

// againstThroughput draws CPU time against throughput, a line for each server
// along the sizes.
func (d *drawing) againstThroughput(kernel, protocol string) {
	connections := d.connections(kernel, protocol, "MiB/s")
	p := newPlot(fmt.Sprintf("CPU against throughput, %s\nkernel %s, %d connection%s", protocolTitles[protocol], kernel, connections, plural(connections)),
		"throughput, MiB/s", "CPU time, seconds per GiB")
	legend := newLegend(p)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, gridColor
	p.Add(grid)
	var x, y []float64
	for _, server := range allServers {
		var points spread
		var names []string
		for _, size := range d.r.sizes() {
			c := Case{kernel, transfer, protocol, size, connections, d.r.Parameters.Ciphers[0], server}
			cpu, speed := d.summaries[c.key(server, "cpu-s/GiB")], d.summaries[c.key(server, "MiB/s")]
			if cpu.n == 0 || speed.n == 0 || cpu.min <= 0 {
				continue
			}
			points.XYs = append(points.XYs, plotter.XY{X: speed.median, Y: cpu.median})
			points.errors = append(points.errors, struct{ Low, High float64 }{cpu.median - cpu.min, cpu.max - cpu.median})
			x, y = append(x, speed.median), append(y, cpu.min, cpu.max)
			names = append(names, formatSize(size))
		}
		if len(points.XYs) > 0 {
			d.addLine(p, &legend, server, points)
		}
		// The names of one line are enough.
		if server == ktls {
			d.addLabels(p, plotter.XYLabels{XYs: points.XYs, Labels: names}, vg.Points(10))
		}
	}
	if len(x) < 2 {
		return
	}
	useLog(&p.X, slices.Min(x), slices.Max(x))
	useLog(&p.Y, slices.Min(y), slices.Max(y))
	d.save(p, legend, fmt.Sprintf("cpu-against-throughput-%s-%s", protocol, fileName(kernel)))
}

// sizes returns those of transfers, in order.
func (r *Results) sizes() []int64 {
	var sizes []int64
	for _, s := range r.Samples {
		if s.Workload == transfer && !slices.Contains(sizes, s.Size) {
			sizes = append(sizes, s.Size)
		}
	}
	slices.Sort(sizes)
	return sizes
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

func fileName(s string) string { return strings.Map(fileRune, s) }

func fileRune(r rune) rune {
	if strings.ContainsRune("/ ", r) {
		return '-'
	}
	return r
}

package main

import (
	"fmt"
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// byKernel draws the cost of 1 MiB bodies on each kernel, if there are several.
func (d *drawing) byKernel(protocol, unit string) {
	var kernels []string
	var groups []Case
	for _, k := range d.r.Kernels {
		c := Case{k.Name, transfer, protocol, 1 << 20, d.connections(k.Name, protocol, unit), d.r.Parameters.Ciphers[0], ""}
		for _, server := range allServers {
			if d.summaries[c.key(server, unit)].n > 0 {
				kernels, groups = append(kernels, k.Name), append(groups, c)
				break
			}
		}
	}
	if len(groups) < 2 {
		return
	}
	label := map[string]string{"instr/KiB": "instructions per KiB", "cpu-s/GiB": "CPU time, seconds per GiB"}[unit]
	p := newPlot(fmt.Sprintf("Kernel by kernel, %s, bodies of 1 MiB", protocolTitles[protocol]), "kernel", label)
	d.grouped(p, groups, kernels, unit, "kernels-"+protocol)
}

// bars draws a quantity of which there is one case for each protocol.
func (d *drawing) bars(workload, unit, name, title, label string) {
	var groups []Case
	var names []string
	for k := range d.summaries {
		c := withoutCipher(k.Case)
		c.Server = ""
		if k.Workload == workload && k.unit == unit && !slices.Contains(groups, c) {
			groups = append(groups, c)
		}
	}
	if len(groups) == 0 {
		return
	}
	slices.SortFunc(groups, compareCases)
	several := slices.ContainsFunc(groups, func(c Case) bool { return c.Kernel != groups[0].Kernel })
	for _, c := range groups {
		n := protocolTitles[c.Protocol]
		if several {
			n += "\n" + c.Kernel
		}
		names = append(names, n)
	}
	if !several {
		title += "\nkernel " + groups[0].Kernel
	}
	d.grouped(newPlot(title, "", label), groups, names, unit, name)
}

// grouped draws a group of bars for each case, one bar for each server.
func (d *drawing) grouped(p *plot.Plot, groups []Case, names []string, unit, name string) {
	var servers []string
	for _, server := range allServers {
		if slices.ContainsFunc(groups, func(c Case) bool { return d.summaries[c.key(server, unit)].n > 0 }) {
			servers = append(servers, server)
		}
	}
	legend := newLegend(p)
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, nil
	p.Add(grid)
	width := min(vg.Points(22), vg.Points(260)/vg.Length(len(groups)*(len(servers)+1)))
	for i, server := range servers {
		values := make(plotter.Values, len(groups))
		labels := plotter.XYLabels{}
		for j, c := range groups {
			s := d.summaries[c.key(server, unit)]
			values[j] = s.median
			if s.n > 0 {
				labels.XYs = append(labels.XYs, plotter.XY{X: float64(j), Y: s.median})
				labels.Labels = append(labels.Labels, formatValue(s.median))
			}
		}
		offset := width * vg.Length(float64(i)-float64(len(servers)-1)/2)
		d.addBars(p, &legend, server, values, width, offset)
		d.addLabels(p, labels, offset)
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.6, float64(len(groups))-0.4
	p.Y.Min, p.Y.Max = 0, p.Y.Max*1.06
	p.Y.Tick.Marker = linearTicks{}
	d.save(p, legend, name)
}

// addBars adds one bar to each group, of one server.
func (d *drawing) addBars(p *plot.Plot, legend *plot.Legend, server string, values plotter.Values, width, offset vg.Length) {
	bars, err := plotter.NewBarChart(values, width)
	if err != nil {
		d.err = err
		return
	}
	bars.Color = serverColors[server]
	bars.LineStyle = draw.LineStyle{Color: color.White, Width: vg.Points(0.5)}
	bars.Offset = offset
	p.Add(bars)
	legend.Add(serverTitles[server], bars)
}

// addLabels writes words above points, that far to the right.
func (d *drawing) addLabels(p *plot.Plot, values plotter.XYLabels, offset vg.Length) {
	if len(values.XYs) == 0 {
		return
	}
	labels, err := plotter.NewLabels(values)
	if err != nil {
		d.err = err
		return
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Font.Variant = "Sans"
		labels.TextStyle[i].Font.Size = vg.Points(7)
		labels.TextStyle[i].XAlign = text.XCenter
	}
	labels.Offset = vg.Point{X: offset, Y: vg.Points(2)}
	p.Add(labels)
}

package main

import (
	"errors"
	"fmt"
	"image/color"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// Pictures are read on light and on dark ground, so their ink is between. The colours of
// servers also differ in how light they are.
var (
	ink    = color.Gray{0x7a}
	colors = map[string]color.Color{
		stock:         color.Gray{0x9a},
		ktls:          color.RGBA{0x00, 0x6d, 0x9c, 0xff},
		nginx:         color.RGBA{0xf2, 0xc1, 0x4e, 0xff},
		nginxKTLS:     color.RGBA{0xc7, 0x62, 0x2b, 0xff},
		floorSendfile: color.RGBA{0xd0, 0x2f, 0x4f, 0xff},
	}
)

var pictureTitles = map[string]string{
	stock: "Caddy", ktls: "Caddy with ktls", nginx: "nginx", nginxKTLS: "nginx with kernel TLS", floorSendfile: "the kernel alone",
}

// drawn are the servers that pictures have, in their order.
var drawn = []string{stock, ktls, nginx, nginxKTLS}

// draw draws the pictures of a run into a folder, as SVG and as PNG.
func (r *Results) draw(dir string) error {
	if len(r.Samples) == 0 {
		return errors.New("there is nothing to draw: the run has no samples")
	}
	kernel := r.Parameters.mainKernel()
	costs, err1 := r.drawCosts(kernel)
	ratios, err2 := r.drawRatios(kernel)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return errors.Join(save(costs, 18*vg.Centimeter, 10*vg.Centimeter, filepath.Join(dir, "cost")),
		save(ratios, 18*vg.Centimeter, 10*vg.Centimeter, filepath.Join(dir, "sizes")))
}

// save writes a picture without a ground, and one with a white one.
func save(p *plot.Plot, width, height font.Length, name string) error {
	p.BackgroundColor = color.Transparent
	if err := p.Save(width, height, name+".svg"); err != nil {
		return err
	}
	p.BackgroundColor = color.White
	return p.Save(width, height, name+".png")
}

// median returns the median of what a case costs, or 0 if it was not measured.
func (r *Results) median(c Case) float64 {
	v, _ := r.center(c, c.costUnit())
	return v
}

// usualCase is the transfer of bodies of a size over as many connections as most cases
// have.
func (r *Results) usualCase(kernel, protocol string, size int64) Case {
	connections := slices.Max(r.Parameters.Connections)
	if slices.Contains(r.Parameters.Connections, 16) {
		connections = 16
	}
	return Case{Kernel: kernel, Workload: transfer, Protocol: protocol, Size: size, Connections: connections, Cipher: r.Parameters.Ciphers[0]}
}

func newPlot(title, y string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.Y.Label.Text, p.Y.Min = title, y, 0
	p.Title.Padding, p.Legend.Top, p.Legend.Padding = 4*vg.Millimeter, true, vg.Millimeter
	p.Title.TextStyle.Font.Size, p.Legend.TextStyle.Font.Size = vg.Points(12), vg.Points(10)
	for _, style := range []*color.Color{
		&p.Title.TextStyle.Color, &p.Legend.TextStyle.Color,
		&p.X.Color, &p.X.Label.TextStyle.Color, &p.X.Tick.Color, &p.X.Tick.Label.Color,
		&p.Y.Color, &p.Y.Label.TextStyle.Color, &p.Y.Tick.Color, &p.Y.Tick.Label.Color,
	} {
		*style = ink
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width, grid.Horizontal.Color = 0, color.Gray{0xc0}
	grid.Horizontal.Width = vg.Points(0.4)
	p.Add(grid)
	return p
}

// drawCosts draws what a KiB of large bodies costs.
func (r *Results) drawCosts(kernel string) (*plot.Plot, error) {
	const size = 1 << 20
	p := newPlot(fmt.Sprintf("Instructions of the server for a KiB, files of 1 MiB, Linux %s", kernel), "instructions, without garbage collection")
	width := 1.4 * vg.Centimeter
	var names []string
	for group, protocol := range r.Parameters.Protocols {
		names = append(names, protocolTitles[protocol])
		base := r.median(r.usualCase(kernel, protocol, size).on(stock))
		for i, server := range drawn {
			v := r.median(r.usualCase(kernel, protocol, size).on(server))
			if v == 0 {
				return nil, fmt.Errorf("the picture needs %s over %s with bodies of 1 MiB", server, protocolTitles[protocol])
			}
			bar, err := plotter.NewBarChart(plotter.Values{v}, width)
			if err != nil {
				return nil, err
			}
			bar.XMin, bar.Offset = float64(group), width*font.Length(2*i-len(drawn)+1)/2
			bar.Color, bar.LineStyle.Width = colors[server], 0
			text := fmt.Sprintf("%.0f", v)
			if server != stock {
				text += fmt.Sprintf("\n×%.2f", v/base)
			}
			label, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: float64(group), Y: v}}, Labels: []string{text}})
			if err != nil {
				return nil, err
			}
			label.TextStyle[0].Color, label.TextStyle[0].XAlign = ink, -0.5
			label.TextStyle[0].Font = font.From(plot.DefaultFont, vg.Points(9))
			label.Offset = vg.Point{X: bar.Offset, Y: vg.Points(3)}
			p.Add(bar, label)
			if group == 0 {
				p.Legend.Add(pictureTitles[server], bar)
			}
		}
		if v := r.median(r.usualCase(kernel, protocol, size).on(floorSendfile)); v > 0 {
			line, err := plotter.NewLine(plotter.XYs{{X: float64(group) - 0.45, Y: v}, {X: float64(group) + 0.45, Y: v}})
			if err != nil {
				return nil, err
			}
			line.Color, line.Width, line.Dashes = colors[floorSendfile], vg.Points(2), []vg.Length{vg.Points(6), vg.Points(3)}
			p.Add(line)
			if group == 0 {
				p.Legend.Add(pictureTitles[floorSendfile], line)
			}
		}
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.6, float64(len(names))-0.4
	p.Y.Max *= 1.6 // the legend is above
	p.Legend.Left, p.Legend.XOffs = true, 3*vg.Millimeter
	return p, nil
}

// drawRatios draws what responses cost by size, compared with stock Caddy.
func (r *Results) drawRatios(kernel string) (*plot.Plot, error) {
	p := newPlot(fmt.Sprintf("Instructions of the server by the length of the body, Linux %s", kernel), "ratio to Caddy without ktls")
	var names []string
	for _, size := range r.Parameters.Sizes {
		names = append(names, formatSize(size))
	}
	for i, protocol := range r.Parameters.Protocols {
		for _, server := range []string{ktls, nginxKTLS} {
			var points plotter.XYs
			for x, size := range r.Parameters.Sizes {
				c := r.usualCase(kernel, protocol, size)
				if r.median(c.on(stock)) == 0 {
					c.Connections = 1
				}
				base, v := r.median(c.on(stock)), r.median(c.on(server))
				if base > 0 && v > 0 {
					points = append(points, plotter.XY{X: float64(x), Y: v / base})
				}
			}
			line, dots, err := plotter.NewLinePoints(points)
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = colors[server], vg.Points(2)
			dots.Color, dots.Radius = colors[server], vg.Points(3)
			if i > 0 {
				line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
			}
			p.Add(line, dots)
			p.Legend.Add(pictureTitles[server]+", "+protocolTitles[protocol], line, dots)
		}
	}
	one := plotter.NewFunction(func(float64) float64 { return 1 })
	one.XMin, one.XMax = 0, float64(len(names)-1)
	one.Color, one.Width = colors[stock], vg.Points(1.5)
	p.Add(one)
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.3, float64(len(names))-0.7
	p.Y.Min, p.Y.Max = 0, max(p.Y.Max, 1.1)*1.5
	p.Legend.XOffs = -3 * vg.Millimeter
	p.X.Label.Text = "length of the body"
	return p, nil
}

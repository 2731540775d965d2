package main

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Each server has a colour and a shape in all pictures. Those with kernel TLS
// are dark, their counterparts without it light.
var (
	serverColors = map[string]color.Color{
		plain:     color.RGBA{0x80, 0x80, 0x80, 0xff},
		stock:     color.RGBA{0x7f, 0xb3, 0xe6, 0xff},
		ktls:      color.RGBA{0x0b, 0x4f, 0x9e, 0xff},
		nginx:     color.RGBA{0xf0, 0xb0, 0x70, 0xff},
		nginxKTLS: color.RGBA{0xb8, 0x52, 0x00, 0xff},
	}
	serverShapes = map[string]draw.GlyphDrawer{
		plain: draw.CrossGlyph{}, stock: draw.RingGlyph{}, ktls: draw.CircleGlyph{},
		nginx: draw.SquareGlyph{}, nginxKTLS: draw.BoxGlyph{},
	}
	serverTitles = map[string]string{
		plain: "Caddy, plain HTTP", stock: "Caddy", ktls: "Caddy with ktls",
		nginx: "nginx", nginxKTLS: "nginx with kernel TLS",
	}
)

const (
	pictureWidth  = 18 * vg.Centimeter
	pictureHeight = 11 * vg.Centimeter
)

// newPlot returns a plot with this project's fonts and a faint grid.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle,
		&p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font.Variant = "Sans"
		style.Font.Size = vg.Points(10)
	}
	p.Title.TextStyle.Font.Size = vg.Points(12)
	p.Title.Padding = vg.Points(8)
	p.X.Padding, p.Y.Padding = vg.Points(4), vg.Points(4)
	p.Legend.Padding = vg.Points(3)
	p.BackgroundColor = color.White
	return p
}

var gridColor = color.Gray{0xe4}

// save writes a plot as SVG and PNG. The legend stands beside it.
func save(p *plot.Plot, legend plot.Legend, dir, name string) error {
	const legendWidth = 4.8 * vg.Centimeter
	for _, kind := range []string{"svg", "png"} {
		canvas, err := draw.NewFormattedCanvas(pictureWidth, pictureHeight, kind)
		if err != nil {
			return err
		}
		all := draw.New(canvas)
		all.SetColor(color.White)
		all.Fill(all.Rectangle.Path())
		p.Draw(draw.Crop(all, vg.Points(6), -legendWidth-vg.Points(6), vg.Points(6), -vg.Points(6)))
		legend.Draw(draw.Crop(all, pictureWidth-legendWidth, 0, 0, -vg.Points(40)))
		if err := writeCanvas(canvas, filepath.Join(dir, name+"."+kind)); err != nil {
			return err
		}
	}
	return nil
}

func newLegend(p *plot.Plot) plot.Legend {
	l := plot.NewLegend()
	l.TextStyle = p.Legend.TextStyle
	l.Top, l.Left = true, true
	l.Padding = vg.Points(4)
	l.ThumbnailWidth = vg.Points(22)
	return l
}

// sizeTicks marks sizes of bodies, as powers of two.
type sizeTicks struct{ sizes []int64 }

func (t sizeTicks) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for _, size := range t.sizes {
		ticks = append(ticks, plot.Tick{Value: float64(size), Label: formatSize(size)})
	}
	return ticks
}

// logTicks marks the powers of ten, and where there are few of them 2 and 5
// times these too.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	factors := []float64{1, 2, 5}
	if high/low > 1000 {
		factors = factors[:1]
	}
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		for _, factor := range factors {
			if v := factor * math.Pow(10, power); v >= low*0.999 && v <= high*1.001 {
				ticks = append(ticks, plot.Tick{Value: v, Label: formatTick(v)})
			}
		}
	}
	return ticks
}

// formatTick writes a round number.
func formatTick(v float64) string {
	if v >= 1000 {
		return formatValue(v)
	}
	return fmt.Sprintf("%.3g", v)
}

// linearTicks are the default ones, with their numbers written as elsewhere.
type linearTicks struct{}

func (linearTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = formatTick(ticks[i].Value)
		}
	}
	return ticks
}

// useLog makes an axis logarithmic, with room at both ends.
func useLog(a *plot.Axis, low, high float64) {
	a.Scale, a.Tick.Marker = plot.LogScale{}, logTicks{}
	a.Min, a.Max = low/1.25, high*1.25
}

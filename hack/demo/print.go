package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// width is the width that the output is made for, in columns.
const width = 100

// printer writes for a person at a terminal. Safe for concurrent use.
type printer struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
}

// newPrinter uses colours on a terminal, unless NO_COLOR is set
// (no-color.org) or the terminal is dumb.
func newPrinter(f *os.File, getenv func(string) string) *printer {
	colour := term.IsTerminal(int(f.Fd())) && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return &printer{out: f, colour: colour}
}

// style is how a piece of text stands out.
type style string

const (
	plain style = ""
	bold  style = "1"
	faint style = "2"
	green style = "32"
	red   style = "1;31"
)

func (p *printer) paint(s style, text string) string {
	if !p.colour || s == plain {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// line writes one line as it is.
func (p *printer) line(s style, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Where the terminal has gone away, the exit status still tells.
	_, _ = fmt.Fprintln(p.out, strings.TrimRight(p.paint(s, text), " "))
}

// heading begins a part of the story.
func (p *printer) heading(s style, text string) {
	p.line(plain, "")
	p.line(s, text)
}

// para writes a paragraph, wrapped, behind a label that stands out to the left.
func (p *printer) para(s style, label, text string) {
	for i, l := range wrap(text, width-utf8.RuneCountInString(label)) {
		if i > 0 {
			label = strings.Repeat(" ", utf8.RuneCountInString(label))
		}
		p.line(plain, label+p.paint(s, l))
	}
}

// result writes the outcome of a check, and what is wrong where it failed.
func (p *printer) result(c check) {
	if len(c.problems) == 0 {
		lines := wrap(c.name, width-8)
		p.line(plain, "  "+p.paint(green, "ok")+"    "+lines[0])
		for _, l := range lines[1:] {
			p.line(plain, "        "+l)
		}
		return
	}
	p.para(plain, "  "+"FAIL  ", p.paint(red, c.name))
	for _, problem := range atMost(c.problems, 8) {
		p.para(plain, "        - ", problem)
	}
}

// atMost cuts a list that would bury the rest.
func atMost(problems []string, n int) []string {
	if len(problems) <= n {
		return problems
	}
	return append(slices.Clone(problems[:n-1]), fmt.Sprintf("and %d more", len(problems)-n+1))
}

// wrap breaks text into lines of at most limit columns, at spaces. A longer
// word stays whole.
func wrap(text string, limit int) []string {
	var lines []string
	for _, paragraph := range strings.Split(text, "\n") {
		line, used := "", 0
		for _, word := range strings.Fields(paragraph) {
			n := utf8.RuneCountInString(word)
			switch {
			case used == 0:
				line, used = word, n
			case used+1+n <= limit:
				line, used = line+" "+word, used+1+n
			default:
				lines = append(lines, line)
				line, used = word, n
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// columns aligns a table: cells of a column get one width, two spaces apart.
// Columns whose heading is in right are aligned to the right.
func columns(rows [][]string, right ...string) []string {
	if len(rows) == 0 {
		return nil
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	toRight := map[int]bool{}
	for i, heading := range rows[0] {
		for _, r := range right {
			toRight[i] = toRight[i] || heading == r
		}
	}
	var lines []string
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if toRight[i] {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress shows how far long work is: one line that is drawn over on a
// terminal, a plain line every few seconds elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	last     time.Time
	drawn    bool
}

func newProgress(w io.Writer) *progress { return &progress{w: w, terminal: isTerminal(w)} }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// show draws part of whole, if it is time to.
func (p *progress) show(what string, part, whole int64, detail string) {
	every := 5 * time.Second
	if p.terminal {
		every = 100 * time.Millisecond
	}
	now := time.Now()
	if now.Sub(p.last) < every {
		return
	}
	p.last = now
	percent := int64(0)
	if whole > 0 {
		percent = min(100, 100*part/whole)
	}
	if !p.terminal {
		fmt.Fprintf(p.w, "%s: %d%%, %s\n", what, percent, detail)
		return
	}
	const width = 30
	full := int(percent * width / 100)
	fmt.Fprintf(p.w, "\r\x1b[K%s %s%s %3d%%  %s", what, strings.Repeat("█", full), strings.Repeat("░", width-full), percent, detail)
	p.drawn = true
}

// clear takes the line away again.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

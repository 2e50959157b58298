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

// newProgress shows nothing for the first moments: short work needs no progress.
func newProgress(w io.Writer) *progress {
	return &progress{w: w, terminal: isTerminal(w), last: time.Now()}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// show draws part of whole, if it is time to. A whole of 0 is not known yet.
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
	const width = 30
	full := int(percent * width / 100)
	switch {
	case p.terminal && whole > 0:
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s %s%s %3d%%  %s", what, strings.Repeat("█", full), strings.Repeat("░", width-full), percent, detail)
	case p.terminal:
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s  %s", what, detail)
	case whole > 0:
		_, _ = fmt.Fprintf(p.w, "%s: %d%%, %s\n", what, percent, detail)
	default:
		_, _ = fmt.Fprintf(p.w, "%s: %s\n", what, detail)
	}
	p.drawn = p.terminal
}

// clear takes the line away again.
func (p *progress) clear() {
	if p.drawn {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

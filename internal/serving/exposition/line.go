package exposition

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	errMalformed = errors.New("the line is not in the format")
	errLabels    = errors.New("the series has more labels than the limit")
)

type lineKind uint8

const (
	lineEmpty lineKind = iota
	lineComment
	lineType
	lineSample
)

// nameOf cuts the family's name off a line.
func nameOf(line []byte) (name, rest []byte, kind lineKind) {
	line = skipBlanks(line)
	if len(line) == 0 {
		return nil, nil, lineEmpty
	}
	if line[0] == '#' {
		word, rest := cutBlank(line[1:])
		if string(word) != "TYPE" {
			return nil, nil, lineComment
		}
		name, rest = cutBlank(rest)
		return name, rest, lineType
	}
	end := 0
	for end < len(line) && line[end] != '{' && !isBlank(line[end]) {
		end++
	}
	return line[:end], line[end:], lineSample
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// skipBlanks is what bytes.TrimLeft does, which takes longer than all the rest
// of a line that nobody wants.
func skipBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	return b
}

// cutEnd takes the line's end off.
func cutEnd(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}

// cutBlank cuts the first word off.
func cutBlank(b []byte) (word, rest []byte) {
	b = skipBlanks(b)
	end := 0
	for end < len(b) && !isBlank(b[end]) {
		end++
	}
	return b[:end], b[end:]
}

// isName says whether b is made of what names of metrics are made of.
func isName(b []byte) bool {
	for _, c := range b {
		if !isLetter(c) && c != ':' && (c < '0' || c > '9') {
			return false
		}
	}
	return len(b) > 0
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

// rawLabel is a label of the line that is being parsed.
type rawLabel struct{ name, value []byte }

// lineParser parses what follows a sample's name: labels, a value, and perhaps
// a time and an exemplar. It takes what Prometheus' own parser takes, and
// OpenMetrics' times and exemplars, without allocating for each line.
type lineParser struct {
	labels []rawLabel // sorted; until the next line
	bytes  int64      // of their names and values
	text   []byte     // unescaped values
}

// parse parses the rest of a line, after its name.
func (p *lineParser) parse(rest []byte, l Limits) (float64, error) {
	p.labels, p.text, p.bytes = p.labels[:0], p.text[:0], 0
	rest = skipBlanks(rest)
	if len(rest) > 0 && rest[0] == '{' {
		var err error
		if rest, err = p.parseLabels(rest[1:], l); err != nil {
			return 0, err
		}
	}
	word, rest := cutBlank(rest)
	value, err := parseValue(word)
	if err != nil {
		return 0, err
	}
	return value, checkTail(rest)
}

// parseValue is strict where Go is generous: no hexadecimal, no underscores.
func parseValue(word []byte) (float64, error) {
	if len(word) == 0 || bytes.ContainsAny(word, "pPxX_") {
		return 0, errMalformed
	}
	v, err := strconv.ParseFloat(string(word), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errMalformed
	}
	return v, nil // out of range is an infinity, which the caller drops
}

// checkTail takes a time and an exemplar, or nothing.
func checkTail(rest []byte) error {
	word, rest := cutBlank(rest)
	if len(word) == 0 || word[0] == '#' {
		return nil
	}
	if _, err := parseValue(word); err != nil {
		return errMalformed
	}
	if word, _ = cutBlank(rest); len(word) == 0 || word[0] == '#' {
		return nil
	}
	return errMalformed
}

// parseLabels parses labels and the brace after them, and returns what
// follows. A comma after the last label is common, and no harm.
func (p *lineParser) parseLabels(rest []byte, l Limits) ([]byte, error) {
	for {
		rest = skipBlanks(rest)
		if len(rest) == 0 {
			return nil, errMalformed
		}
		if rest[0] == '}' {
			return rest[1:], p.sort()
		}
		label, after, err := p.parseLabel(rest)
		if err != nil {
			return nil, err
		}
		p.bytes += int64(len(label.name) + len(label.value))
		if len(p.labels) == l.Labels || p.bytes > int64(l.LabelBytes) {
			return nil, errLabels
		}
		p.labels = append(p.labels, label)
		rest = skipBlanks(after)
		switch {
		case len(rest) > 0 && rest[0] == ',':
			rest = rest[1:]
		case len(rest) == 0 || rest[0] != '}':
			return nil, errMalformed
		}
	}
}

// parseLabel parses name="value".
func (p *lineParser) parseLabel(rest []byte) (label rawLabel, after []byte, err error) {
	if rest[0] == '"' { // any text may be a name, in quotes
		label.name, rest, err = p.parseQuoted(rest[1:])
	} else {
		end := 0
		for end < len(rest) && (isLetter(rest[end]) || end > 0 && rest[end] >= '0' && rest[end] <= '9') {
			end++
		}
		label.name, rest = rest[:end], rest[end:]
	}
	if err != nil || len(label.name) == 0 || string(label.name) == "__name__" {
		return label, nil, errMalformed
	}
	rest = skipBlanks(rest)
	if len(rest) == 0 || rest[0] != '=' {
		return label, nil, errMalformed
	}
	rest = skipBlanks(rest[1:])
	if len(rest) == 0 || rest[0] != '"' {
		return label, nil, errMalformed
	}
	label.value, rest, err = p.parseQuoted(rest[1:])
	return label, rest, err
}

// parseQuoted parses a text up to its closing quote. Only where something is
// escaped is it copied.
func (p *lineParser) parseQuoted(rest []byte) (text, after []byte, err error) {
	end := bytes.IndexAny(rest, `"\`)
	if end >= 0 && rest[end] == '"' {
		text, after = rest[:end], rest[end+1:]
		return text, after, checkText(text)
	}
	begin := len(p.text)
	for i := 0; i < len(rest); i++ {
		c := rest[i]
		switch c {
		case '"':
			// The slice stays good when p.text grows: it keeps the old array.
			text = p.text[begin:len(p.text):len(p.text)]
			return text, rest[i+1:], checkText(text)
		case '\\':
			i++
			if i == len(rest) {
				return nil, nil, errMalformed
			}
			at := strings.IndexByte(`\"n`, rest[i])
			if at < 0 {
				return nil, nil, errMalformed
			}
			c = "\\\"\n"[at]
		}
		p.text = append(p.text, c)
	}
	return nil, nil, errMalformed
}

func checkText(text []byte) error {
	if !utf8.Valid(text) {
		return errMalformed
	}
	return nil
}

// sort brings the labels in order; a name that is there twice is an error.
func (p *lineParser) sort() error {
	slices.SortFunc(p.labels, func(a, b rawLabel) int { return bytes.Compare(a.name, b.name) })
	for i := 1; i < len(p.labels); i++ {
		if bytes.Equal(p.labels[i-1].name, p.labels[i].name) {
			return errMalformed
		}
	}
	return nil
}

package replay

import (
	"fmt"
	"math"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads one line of JSON, strictly. encoding/json would accept what a
// ledger must not: floats for counters, a key twice, unknown keys within maps,
// broken UTF-8. The first fault sticks and ends every loop.
type scanner struct {
	line  []byte
	at    int
	first bool // nothing has been read yet of the array or object just opened
	bad   *fault
	buf   []byte // the last string that had escapes
}

func (s *scanner) reset(line []byte) { s.line, s.at, s.first, s.bad = line, 0, false, nil }

func (s *scanner) fail(hint, format string, args ...any) {
	if s.bad == nil {
		s.bad = faultf(hint, format, args...)
	}
}

// malformed is the fault of a line that is not the JSON that is due.
func (s *scanner) malformed(want string) {
	got := "the line's end"
	if s.at < len(s.line) {
		got = fmt.Sprintf("%q", s.line[s.at:min(len(s.line), s.at+12)])
	}
	s.fail("each line is one JSON object, written as docs/recording.md says", "column %d: want %s, not %s", s.at+1, want, got)
}

func (s *scanner) space() {
	for s.at < len(s.line) && (s.line[s.at] == ' ' || s.line[s.at] == '\t' || s.line[s.at] == '\r') {
		s.at++
	}
}

func (s *scanner) take(c byte) bool {
	s.space()
	if s.at < len(s.line) && s.line[s.at] == c {
		s.at++
		return true
	}
	s.malformed(string(rune(c)))
	return false
}

// open begins an object or array; more says whether another entry follows.
func (s *scanner) open(c byte) {
	s.take(c)
	s.first = true
}

func (s *scanner) more(end byte) bool {
	if s.bad != nil {
		return false
	}
	first := s.first
	s.first = false
	s.space()
	if s.at < len(s.line) && s.line[s.at] == end {
		s.at++
		return false
	}
	return first || s.take(',')
}

// end makes sure that the line ends here.
func (s *scanner) end() {
	s.space()
	if s.at < len(s.line) {
		s.malformed("the line's end")
	}
}

// keys are the keys of an object, at most 32.
type keys []string

func (k keys) String() string { return strings.Join(k, ", ") }

// key reads a key and its colon, and returns its index. It notes it in seen
// and finds fault with a key that is unknown or repeated: then it returns −1.
func (s *scanner) key(ks keys, seen *uint32) int {
	k := s.bytes()
	if s.bad != nil {
		return -1
	}
	for i, known := range ks {
		if known != string(k) {
			continue
		}
		if *seen&(1<<i) != 0 {
			s.fail("write each key once", "key %q is there twice", k)
			return -1
		}
		*seen |= 1 << i
		if !s.take(':') {
			return -1
		}
		return i
	}
	s.fail("the keys here are "+ks.String(), "unknown key %q", k)
	return -1
}

// need finds fault with an object that lacks one of its first n keys.
func (s *scanner) need(ks keys, seen uint32, n int) {
	if s.bad == nil && bits.TrailingZeros32(^seen) < n {
		s.fail("the keys needed here are "+ks[:n].String(), "key %q is missing", ks[bits.TrailingZeros32(^seen)])
	}
}

func (s *scanner) bool() bool {
	s.space()
	for _, v := range [...]string{"true", "false"} {
		if rest := s.line[s.at:]; len(rest) >= len(v) && string(rest[:len(v)]) == v {
			s.at += len(v)
			return v == "true"
		}
	}
	s.malformed("true or false")
	return false
}

// int reads an integer from 0 to limit.
func (s *scanner) int(limit int64) int64 { return int64(s.fixed(0, uint64(limit))) }

// fixed reads a decimal with up to scale digits after the point, as an integer
// of that scale, from 0 to limit.
func (s *scanner) fixed(scale int, limit uint64) uint64 {
	s.space()
	start := s.at
	v, ok := s.digits(0)
	if s.at == start {
		s.notNumber()
		return 0
	}
	if s.line[start] == '0' && s.at > start+1 {
		s.fail("write it without leading zeros", "column %d: number %s has leading zeros", start+1, s.line[start:s.at])
	}
	fraction := 0
	if s.at < len(s.line) && s.line[s.at] == '.' {
		s.at++
		point := s.at
		var fits bool
		v, fits = s.digits(v)
		ok = ok && fits
		fraction = s.at - point
		if fraction == 0 || fraction > scale {
			s.fail(fmt.Sprintf("it may have at most %d digits after the point", scale), "column %d: number %s is too fine", start+1, s.line[start:s.at])
			return 0
		}
	}
	if s.at < len(s.line) && (s.line[s.at] == 'e' || s.line[s.at] == 'E') {
		s.fail("write plain decimals", "column %d: number with an exponent", start+1)
		return 0
	}
	for ; fraction < scale && ok; fraction++ {
		hi, lo := bits.Mul64(v, 10)
		v, ok = lo, hi == 0
	}
	if !ok || v > limit {
		s.fail("the most allowed here is "+decimal(limit, scale), "column %d: number %s is too large", start+1, s.line[start:s.at])
		return 0
	}
	return v
}

// digits reads digits behind v and says whether the number still fits.
func (s *scanner) digits(v uint64) (uint64, bool) {
	ok := true
	for ; s.at < len(s.line); s.at++ {
		c := s.line[s.at] - '0'
		if c > 9 {
			break
		}
		if v > (math.MaxUint64-9)/10 {
			ok = false
			continue
		}
		v = v*10 + uint64(c)
	}
	return v, ok
}

func (s *scanner) notNumber() {
	if s.at < len(s.line) && s.line[s.at] == '-' {
		s.fail("no number in a recording is negative", "column %d: negative number", s.at+1)
		return
	}
	s.malformed("a number")
}

// decimal writes an integer of a scale as a decimal, without trailing zeros.
func decimal(v uint64, scale int) string { return string(appendDecimal(nil, v, scale)) }

// text reads a string of up to maxText bytes without control characters.
func (s *scanner) text() string { return string(s.bytes()) }

// bytes is text that stays valid until the next string is read.
func (s *scanner) bytes() []byte {
	s.space()
	if s.at >= len(s.line) || s.line[s.at] != '"' {
		s.malformed("a string")
		return nil
	}
	s.at++
	start, plain := s.at, true
	for ; s.at < len(s.line) && s.line[s.at] != '"'; s.at++ {
		switch c := s.line[s.at]; {
		case c == '\\' || c >= utf8.RuneSelf:
			plain = false
			if c == '\\' {
				s.at++
			}
		case c < ' ':
			s.malformed("text without control characters")
			return nil
		}
	}
	if s.at >= len(s.line) {
		s.at = len(s.line)
		s.malformed(`a string's closing "`)
		return nil
	}
	out := s.line[start:s.at]
	s.at++
	if !plain {
		out = s.unescape(out)
	}
	if f := checkText(out); s.bad == nil && f != nil {
		s.bad = f
	}
	return out
}

// unescape resolves a string's backslashes into s.buf.
func (s *scanner) unescape(in []byte) []byte {
	s.buf = s.buf[:0]
	for i := 0; i < len(in); {
		if in[i] != '\\' {
			s.buf = append(s.buf, in[i])
			i++
			continue
		}
		c := in[i+1] // bytes made sure that there is one
		i += 2
		switch c {
		case '"', '\\', '/':
			s.buf = append(s.buf, c)
		case 'u':
			r, n := unicodeEscape(in[i:])
			if n == 0 {
				s.fail(`write \u and four hex digits, in pairs for surrogates`, "malformed escape in a string")
				return nil
			}
			s.buf = utf8.AppendRune(s.buf, r)
			i += n
		default: // the others stand for control characters, which text has not
			s.fail("text has no control characters", `escape \%c in a string`, c)
			return nil
		}
	}
	return s.buf
}

// unicodeEscape decodes what follows \u: a rune and the bytes read, 0 if bad.
func unicodeEscape(in []byte) (rune, int) {
	r, ok := hex4(in)
	switch {
	case !ok:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return r, 4
	case len(in) < 10 || in[4] != '\\' || in[5] != 'u':
		return 0, 0
	}
	low, ok := hex4(in[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return r, 10
}

func hex4(in []byte) (r rune, ok bool) {
	if len(in) < 4 {
		return 0, false
	}
	for _, c := range in[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// checkText is what holds for every string of a recording.
func checkText[T string | []byte](t T) *fault {
	if len(t) > maxText {
		return faultf(fmt.Sprintf("the most is %d", maxText), "text of %d bytes", len(t))
	}
	ascii := true
	for i := range len(t) {
		if t[i] < ' ' || t[i] == 0x7f {
			return faultf("names and labels are printable text", "text with a control character")
		}
		ascii = ascii && t[i] < utf8.RuneSelf
	}
	if ascii {
		return nil
	}
	if !utf8.ValidString(string(t)) {
		return faultf("recordings are UTF-8", "text that is not UTF-8")
	}
	if strings.ContainsFunc(string(t), unicode.IsControl) { // terminals obey U+009B too
		return faultf("names and labels are printable text", "text with a control character")
	}
	return nil
}

package process

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

func TestParseStat(t *testing.T) {
	const fields = " S 1 42 42 0 -1 %flags 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1"
	text := func(front, flags string) string { return front + strings.Replace(fields, "%flags", flags, 1) }
	for in, want := range map[string]stat{
		text("42 (python3)", "4194560"):   {sampler.Identity{Start: 987654, Command: "python3"}, false},
		text("42 (a (b) c)", "4194560"):   {sampler.Identity{Start: 987654, Command: "a (b) c"}, false},
		text("42 (a) S 1 (b)", "4194560"): {sampler.Identity{Start: 987654, Command: "a) S 1 (b"}, false},
		text("42 ()", "0"):                {sampler.Identity{Start: 987654}, false},
		text("42 (a\xffb)", "0"):          {sampler.Identity{Start: 987654, Command: "a\uFFFDb"}, false},
		text("42 (x)", "4194564"):         {sampler.Identity{Start: 987654, Command: "x"}, true},
		"7 (y) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 18446744073709551615\n": {sampler.Identity{Start: 1<<64 - 1, Command: "y"}, false},
	} {
		if got, ok := parseStat([]byte(in)); !ok || got != want {
			t.Errorf("%q: %+v %v, want %+v", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", "42", ") (", "42 (x", "42 (x)", text("42 (x)", "many"), text("42 (x)", "-1"),
		"7 (y) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0", "7 (y) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 x",
		"7 (y) S 1 1 1 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 18446744073709551616",
	} {
		if got, ok := parseStat([]byte(in)); ok || got != (stat{}) {
			t.Errorf("%q: %+v %v", in, got, ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (init) S 0 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1"))
	f.Add([]byte("1 (a\xff) S 0 1 1 0 -1 4194564 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1"))
	f.Add([]byte(") ("))
	f.Add([]byte("()  \n\n "))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseStat(b)
		if !ok && s != (stat{}) {
			t.Fatalf("not parsed, but %+v", s)
		}
		if !utf8.ValidString(s.Command) {
			t.Fatalf("the command %q can't travel", s.Command)
		}
	})
}

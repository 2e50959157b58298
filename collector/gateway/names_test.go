package gateway

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

func TestNamesKeepTheirPlaceForADay(t *testing.T) {
	n := newNames(2)
	for _, step := range []struct {
		at         attribution.Second
		name, want string
	}{
		{0, "", ""},
		{0, "a", "a"},
		{10, "b", "b"},
		{20, "c", Other}, // no place
		{forgetAfter - 1, "a", "a"},
		{forgetAfter, "c", Other}, // a was heard of, b is 10 s short of a day
		{forgetAfter + 10, "c", "c"},
		{forgetAfter + 11, "b", Other},
		{forgetAfter + 11, "c", "c"},
		{forgetAfter + 11, "", ""},
	} {
		if got := n.fold(step.name, step.at); got != step.want {
			t.Errorf("at %d: %q is counted as %q, want %q", step.at, step.name, got, step.want)
		}
	}
	if n.folded != 3 {
		t.Errorf("%d names were folded: want 3", n.folded)
	}
	for _, bad := range []string{strings.Repeat("x", maxName+1), "a\xff", "line\nbreak"} {
		if got := newNames(5).fold(bad, 0); got != Other {
			t.Errorf("%q is counted as %q", bad, got)
		}
	}
}

// However many names there are, at most so many and "(other)" come of them, and
// one that has a place keeps it while it is heard of.
func TestLaw8NamesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(t, "most")
		n := newNames(most)
		last := make(map[string]attribution.Second) // of names with a place
		now := attribution.Second(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += attribution.Second(rapid.SampledFrom([]int{0, 1, 3600, 40000, 90000}).Draw(t, "later"))
			name := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "name"))
			got := n.fold(name, now)
			at, had := last[name]
			if got != name && (got != Other || (had && now-at < forgetAfter)) {
				t.Fatalf("at %d %q became %q; it was heard of at %d (%v)", now, name, got, at, had)
			}
			if got == name {
				last[name] = now
			}
			if len(n.seen) > most {
				t.Fatalf("%d names", len(n.seen))
			}
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"http://llama.prod.svc:8000/v1":      "http://llama.prod.svc:8000/v1",
		"http://llama.prod.svc:8000/v1/":     "http://llama.prod.svc:8000/v1",
		"https://key:secret@host/v1?token=x": "https://host/v1",
		"user@10.0.0.1:8000":                 "10.0.0.1:8000",
		"http://h/a@b":                       "http://h/a@b",
		"http://h/#frag":                     "http://h",
		"not an address":                     "not an address",
	} {
		if got := cleanBackend(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"hosted_vllm/meta-llama/Llama-3": "meta-llama/Llama-3",
		"openai/gpt":                     "gpt",
		"openai/":                        "openai/",
		"openai/openai/gpt-oss":          "openai/gpt-oss",
		"meta-llama/Llama-3":             "meta-llama/Llama-3",
		"":                               "",
	} {
		if got := cleanModel(in, KnownPrefixes[:]); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestProcesses(t *testing.T) {
	ps := newProcesses()
	const a, b = 1_700_000_000_120_000_000, 1_700_000_500_340_000_000
	see := func(at string, started int64, now attribution.Second) string {
		name, _ := ps.of(at, started, now)
		return name
	}
	first := see("x", a, 100)
	if see("x", a+1e9, 115) != first || see("x", a-2e9, 120) != first {
		t.Error("a start that is told a second or two apart is another process")
	}
	second := see("x", b, 130)
	if second == first || see("y", a, 130) == first {
		t.Error("two processes are one")
	}
	if told, _ := ps.troubled(130); len(told) > 0 {
		t.Errorf("a restart is taken for replicas: %v", told)
	}
	if see("x", a, 145) != first || see("x", b, 160) != second {
		t.Error("a process is not known again")
	}
	if told, untold := ps.troubled(161); len(told) != 1 || told[0] != "x" || len(untold) != 0 {
		t.Errorf("%v, %v", told, untold)
	}
	if told, _ := ps.troubled(160 + warnFor); len(told) != 0 {
		t.Error("it is warned of for ever")
	}
	if name := see("x", 0, 160+warnFor); name != second {
		t.Errorf("a page that is not whole is taken for %q: want %q", name, second)
	}
	see("x", a, 160+warnFor)
	if name := see("x", 0, 160+warnFor); name != "" {
		t.Errorf("a page that may be either's is taken for %q", name)
	}
	if see("v", 0, 160) != "v" || see("v", a, 170) != "v" || see("v", b, 180) != "v" {
		t.Error("what was counted without a start is counted again with one")
	}
	for i := range fallsToWarn {
		if _, untold := ps.troubled(200); len(untold) > 0 {
			t.Errorf("after %d falls: %v", i, untold)
		}
		see("z", 0, 200)
		ps.fell("z", true, 200)
		ps.fell("x", true, 200) // whose page tells of a start
	}
	if _, untold := ps.troubled(200); len(untold) != 1 || untold[0] != "z" {
		t.Errorf("%v", untold)
	}
	ps.keep([]string{"x"})
	if told, untold := ps.troubled(161 + warnFor); len(told) != 1 || len(untold) != 0 {
		t.Errorf("%v, %v", told, untold)
	}
	gone := 0
	for i := range int64(2 * mostProcesses) {
		_, names := ps.of("w", (i+1)*7_010_000_000, attribution.Second(1000+i))
		gone += len(names)
	}
	if len(ps.seen) != mostProcesses || gone != mostProcesses+4+1 {
		t.Errorf("%d processes are remembered, %d forgotten", len(ps.seen), gone)
	}
}

package plainyaml

import (
	"errors"
	"strings"
	"testing"
)

type thing struct {
	A string
	B []struct{ C string }
	D map[string]string
}

func TestPlainText(t *testing.T) {
	v := thing{A: "before"}
	if said, err := Decode([]byte("b: [{c: x}]\nd: {e: f}\n"), &v); !said || err != nil || v.A != "before" || v.B[0].C != "x" || v.D["e"] != "f" {
		t.Fatalf("%+v, %v, %v", v, said, err)
	}
	for _, text := range []string{"", "\n", "# nothing\n", "---\n"} {
		if said, err := Decode([]byte(text), &v); said || err != nil || v.A != "before" {
			t.Errorf("%q: %+v, %v, %v", text, v, said, err)
		}
	}
}

func TestWhatIsNotTaken(t *testing.T) {
	for text, want := range map[string]string{
		"a: x\nb: !0 000\n":                   "line 2: tags",
		"b: !!binary 5\n":                     "line 1: tags",
		"a: &a x\n":                           "line 1: tags",
		"d: &d {e: f}\nb: [*d]\n":             "line 1: tags",
		"d: {<<: {e: f}}\n":                   "line 1: tags",
		"a: x\n" + strings.Repeat("[", 1<<16): "line 2: is nested too deeply",
		strings.Repeat("- ", 1<<16):           "line 1: is nested too deeply",
	} {
		var refused *Refused
		_, err := Decode([]byte(text), &thing{})
		if !errors.As(err, &refused) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
	if _, err := Decode([]byte("a: x\n---\na: y\n"), &thing{}); !errors.Is(err, ErrDocuments) {
		t.Errorf("two documents: %v", err)
	}
	for _, text := range []string{"a: [", "x: y\n", "a: x\na: y\n"} {
		if _, err := Decode([]byte(text), &thing{}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// FuzzDecode: whatever the text, there is an answer and no panic.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("b: [{c: x}]\nd: {e: f}\n"))
	f.Add([]byte("b: !0 000\n"))
	f.Add([]byte("? - a\n: b"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) > 1<<10 {
			return // the parser's own speed is not at issue
		}
		_, _ = Decode(b, &thing{})
	})
}

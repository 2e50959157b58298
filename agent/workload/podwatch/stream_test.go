package podwatch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func names(t *testing.T, text string) (got []string, meta listMeta, err error) {
	t.Helper()
	meta, err = readList(strings.NewReader(text), "PodList", func(o *object) error {
		if o == nil {
			got = append(got, "-")
		} else {
			got = append(got, o.Metadata.Name)
		}
		return nil
	})
	return got, meta, err
}

func TestReadList(t *testing.T) {
	const a, b = `{"metadata":{"name":"a"}}`, `{"metadata":{"name":"b"},"unknown":[1,{"x":null}]}`
	many := strings.Repeat(`{},`, maxItems) + `{}`
	for name, c := range map[string]struct {
		text  string
		names string
		ok    bool
	}{
		"list":           {`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"more"},"items":[` + a + `,` + b + `]}`, "a b", true},
		"other order":    {`{"items":[` + a + `],"metadata":{"resourceVersion":"7","continue":"more"},"x":{"y":[1]},"kind":"PodList"}`, "a", true},
		"empty":          {`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"more"},"items":[]}`, "", true},
		"null":           {`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"more"},"items":null}`, "", true},
		"unfit":          {`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"more"},"items":[1,{"metadata":{"name":2}},` + a + `]}`, "- - a", true},
		"too many":       {`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"more"},"items":[{"spec":{"containers":[` + many + `]}},` + a + `]}`, "- a", true},
		"nested list":    {`{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"more"},"items":[{"spec":{"containers":null,"initContainers":[]}},{"spec":{"containers":{}}},` + a + `]}`, " - a", true},
		"another kind":   {`{"kind":"Status","items":[]}`, "", false},
		"no kind":        {`{}`, "", false},
		"an array":       {`[]`, "", false},
		"items no list":  {`{"kind":"PodList","items":{}}`, "", false},
		"cut in a list":  {`{"kind":"PodList","items":[` + a, "a", false},
		"cut in an item": {`{"kind":"PodList","items":[{"meta`, "", false},
		"cut at the end": {`{"kind":"PodList","items":[` + a + `]`, "a", false},
		"nothing":        {``, "", false},
		"no JSON":        {`Forbidden`, "", false},
	} {
		got, meta, err := names(t, c.text)
		if strings.Join(got, " ") != c.names || (err == nil) != c.ok {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if c.ok && (meta != listMeta{"7", "more"}) {
			t.Errorf("%s: %+v", name, meta)
		}
		if errors.Is(err, io.EOF) {
			t.Errorf("%s: %v reads as a good end", name, err)
		}
	}
}

func TestReadListIsBounded(t *testing.T) {
	large := `{"metadata":{"name":"` + strings.Repeat("x", 2*maxObjectBytes) + `"}}`
	if _, _, err := names(t, `{"kind":"PodList","items":[`+large+`]}`); !errors.Is(err, errTooLarge) {
		t.Errorf("an object of %d bytes: %v", len(large), err)
	}
	endless := io.MultiReader(strings.NewReader(`{"kind":"PodList","items":[`), endlessly(`{"metadata":{"name":"`+strings.Repeat("x", 2000)+`"}},`))
	n := 0
	_, err := readList(endless, "PodList", func(*object) error { n++; return nil })
	if !errors.Is(err, errTooLarge) || n < 1000 {
		t.Errorf("a list without end: %d items, %v", n, err)
	}
	if _, _, err := names(t, `{"kind":"PodList","x":`+strings.Repeat("[", 20000)); err == nil {
		t.Error("depth without end")
	}
}

// endlessly repeats a text.
type repeater struct{ text, left string }

func endlessly(text string) io.Reader { return &repeater{text: text} }

func (r *repeater) Read(p []byte) (int, error) {
	if r.left == "" {
		r.left = strings.Repeat(r.text, 1000)
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func TestReadWatch(t *testing.T) {
	event := func(kind, name, version string) string {
		return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":%q,"resourceVersion":%q}}}`+"\n", kind, name, version)
	}
	refuse := errors.New("no more")
	for name, c := range map[string]struct {
		text, seen, version string
		code                int
		err                 error
	}{
		"nothing":  {"", "", "1", 0, nil},
		"events":   {event("ADDED", "a", "2") + event("MODIFIED", "a", "3") + event("DELETED", "a", "4"), "ADDED a, MODIFIED a, DELETED a", "4", 0, nil},
		"bookmark": {event("ADDED", "a", "2") + event("BOOKMARK", "", "9"), "ADDED a", "9", 0, nil},
		"expired":  {event("ADDED", "a", "2") + `{"type":"ERROR","object":{"kind":"Status","message":"too old","reason":"Expired","code":410}}`, "ADDED a", "2", 410, nil},
		"unfit":    {`{"type":"ADDED","object":{"metadata":{"name":1,"resourceVersion":"5"}}}` + event("ADDED", "b", "6"), "ADDED -, ADDED b", "6", 0, nil},
		"cut":      {event("ADDED", "a", "2") + `{"type":"ADD`, "ADDED a", "2", 0, io.ErrUnexpectedEOF},
		"refused":  {event("ADDED", "refuse", "2"), "ADDED refuse", "2", 0, refuse},
	} {
		var seen []string
		version, err := readWatch(iotest.OneByteReader(strings.NewReader(c.text)), "1", func(event string, o *object) error {
			name := "-"
			if o != nil {
				name = o.Metadata.Name
			}
			seen = append(seen, event+" "+name)
			if name == "refuse" {
				return refuse
			}
			return nil
		})
		if got := strings.Join(seen, ", "); got != c.seen || version != c.version {
			t.Errorf("%s: %s at %s", name, got, version)
		}
		switch {
		case c.code != 0 && !refused(err, c.code):
			t.Errorf("%s: %v", name, err)
		case c.code == 0 && !errors.Is(err, c.err):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadList(f *testing.F) {
	for _, file := range recordings {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`{"kind":"PodList","items":[1,null,{"spec":{"containers":[{}]}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		read := func(r io.Reader) (n int, err error) {
			_, err = readList(r, "PodList", func(o *object) error {
				n++
				if o != nil {
					o.pod(node)
				}
				return nil
			})
			return n, err
		}
		n, err := read(strings.NewReader(text))
		m, again := read(iotest.HalfReader(strings.NewReader(text)))
		if n != m || (err == nil) != (again == nil) {
			t.Errorf("%d items, %v; in pieces %d, %v", n, err, m, again)
		}
	})
}

func FuzzReadWatch(f *testing.F) {
	f.Add(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"2"}}}{"type":"ERROR","object":{"code":410}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var whole, pieces []*object
		_, err := readWatch(strings.NewReader(text), "1", func(_ string, o *object) error { whole = append(whole, o); return nil })
		_, again := readWatch(iotest.OneByteReader(strings.NewReader(text)), "1", func(_ string, o *object) error { pieces = append(pieces, o); return nil })
		if !reflect.DeepEqual(whole, pieces) || (err == nil) != (again == nil) {
			t.Errorf("%v, %v; in pieces %v, %v", whole, err, pieces, again)
		}
	})
}

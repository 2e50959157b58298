package verify_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/verify"
)

// sent is what a node sends: chunks, and the links before them.
type sent struct {
	chunk    *attribution.Chunk
	previous []byte
}

// chain links chunks as an agent does.
func chain(cs []*attribution.Chunk) (out []sent) {
	link := attribution.FirstLink(cs[0].Key.Boot)
	for _, c := range cs {
		e := querytest.Encode(c).Chunk
		out = append(out, sent{c, link})
		link = attribution.Link(link, e.Key.Sequence, e.Digest)
	}
	return out
}

// otherwise is a chunk with the same windows that gives the time of two of its
// owners to one of them: it keeps every law by itself.
func otherwise(t *testing.T, c *attribution.Chunk) *attribution.Chunk {
	t.Helper()
	x := *c
	x.Windows = slices.Clone(c.Windows)
	changed := false
	for i := range x.Windows {
		w := &x.Windows[i]
		w.Slices = slices.Clone(w.Slices)
		if n := len(w.Slices); n > 1 && w.Slices[0].Time > 1 && w.Slices[n-1].Basis == attribution.Reserved {
			w.Slices[n-1].Time += w.Slices[0].Time - 1
			w.Slices[0].Time = 1
			w.Slices[0].SMActive = min(w.Slices[0].SMActive, 1)
			changed = true
		}
		attribution.Rate(w)
	}
	if err := x.Check(); err != nil || !changed {
		t.Fatalf("not a chunk that passes for another: %v, changed %v", err, changed)
	}
	return &x
}

// checked commits what was sent and verifies it, with what was noted before.
func checked(t *testing.T, noted []verify.Head, batches ...[]sent) *verify.Progress {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: decode})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.SetMapping(t.Context(), mapping.Default().Compile()); err != nil {
		t.Fatal(err)
	}
	for i, all := range batches {
		var cs []*attribution.Chunk
		for _, x := range all {
			cs = append(cs, x.chunk)
		}
		b := batch(t, uint64(i+1), cs, nil)
		for j := range b.Chunks {
			b.Chunks[j].Previous = all[j].previous
		}
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	p, err := verify.New(verify.Config{Store: s}).Check(t.Context(), &verify.Request{Noted: noted}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLaw4TheChainTellsWhatWasChangedLeftOutOrPutIn(t *testing.T) {
	cs := querytest.NewWorld().Chunks(0, 300)
	cs = slices.DeleteFunc(cs, func(c *attribution.Chunk) bool { return c.Key.Node != cs[0].Key.Node })
	whole := chain(cs)
	forged := slices.Clone(cs)
	forged[7] = otherwise(t, cs[7])
	relinked := chain(forged) // by someone who knows how
	noted := func(p *verify.Progress, what string) bool {
		return slices.ContainsFunc(p.Unchecked, func(s string) bool { return strings.Contains(s, what) })
	}

	if p := checked(t, nil, whole[:10], whole[20:], whole[10:20]); p.Broken != nil || noted(p, "chain") {
		t.Errorf("nothing was done to it: %v %q", p.Broken, p.Unchecked)
	}
	mixed := slices.Clone(whole)
	mixed[7].chunk = forged[7]
	for name, batches := range map[string][][]sent{
		"one chunk changed":                        {mixed},
		"one changed, and all after it relinked":   {relinked[:20], whole[20:]},
		"relinked, then linked to what comes next": {relinked[:20], whole[20:25], whole[25:]},
		"the order of links exchanged":             {append(append(slices.Clone(whole[:3]), sent{cs[3], whole[4].previous}), whole[4:]...)},
	} {
		if p := checked(t, nil, batches...); p.Broken == nil || p.Broken.Law != 4 || !strings.Contains(p.Broken.Reason, "chain") {
			t.Errorf("%s: %v", name, p.Broken)
		}
	}
	// As long as nothing came after it, who relinks everything is not found out.
	if p := checked(t, nil, relinked); p.Broken != nil {
		t.Errorf("a chain by itself: %v", p.Broken)
	}
	if p := checked(t, nil, whole[:7], whole[8:]); p.Broken != nil || !noted(p, "closed chunks there") {
		t.Errorf("one is not here: %v %q", p.Broken, p.Unchecked)
	}
	down := append(slices.Clone(cs[:7]), cs[8:]...)
	if p := checked(t, nil, chain(down)); p.Broken != nil || !noted(p, "closed nothing there") {
		t.Errorf("the node was down: %v %q", p.Broken, p.Unchecked)
	}
	unchained := make([]sent, 0, 10)
	for _, c := range cs[:10] {
		unchained = append(unchained, sent{chunk: c})
	}
	if p := checked(t, nil, unchained, chain(cs[10:])); p.Broken != nil || !noted(p, "begins anew") {
		t.Errorf("an agent that was brought up to date: %v %q", p.Broken, p.Unchecked)
	}
}

// Who rewrites everything and relinks it is found out by what was noted before.
func TestLaw4HeadsThatWereNotedStay(t *testing.T) {
	cs := querytest.NewWorld().Chunks(0, 300)
	cs = slices.DeleteFunc(cs, func(c *attribution.Chunk) bool { return c.Key.Node != cs[0].Key.Node })
	whole := chain(cs)
	then := checked(t, nil, whole[:20]).Heads
	if len(then) != 1 || then[0].At != cs[19].End() {
		t.Fatalf("heads: %+v", then)
	}
	for name, c := range map[string]struct {
		now    []sent
		broken string
	}{
		"the same":          {whole[:20], ""},
		"and more":          {whole, ""},
		"begun anew there":  {append(slices.Clone(whole[:20]), chain(cs[20:])...), ""},
		"relinked, anew":    {append(chain(append([]*attribution.Chunk{otherwise(t, cs[0])}, cs[1:20]...)), chain(cs[20:])...), "not the one that was noted"},
		"relinked":          {chain(append([]*attribution.Chunk{otherwise(t, cs[0])}, cs[1:]...)), "not the one that was noted"},
		"the end taken out": {whole[:19], "not on record any more"},
	} {
		switch p := checked(t, then, c.now); {
		case c.broken == "" && (p.Broken != nil || len(p.Unchecked) != strings.Count(name, "anew")):
			t.Errorf("%s: %v %q", name, p.Broken, p.Unchecked)
		case c.broken != "" && (p.Broken == nil || !strings.Contains(p.Broken.Reason, c.broken)):
			t.Errorf("%s: %v", name, p.Broken)
		}
	}
}

// What an attacker writes to the file over the last chunk is found by the link
// that is on record behind it.
func TestLaw4TheNewestChunkIsNotChangedUnseen(t *testing.T) {
	dir := t.TempDir()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: decode})
	if err != nil {
		t.Fatal(err)
	}
	cs := querytest.NewWorld().Chunks(0, 300)
	cs = slices.DeleteFunc(cs, func(c *attribution.Chunk) bool { return c.Key.Node != cs[0].Key.Node })
	all := chain(cs)
	b := batch(t, 1, cs, nil)
	for i := range b.Chunks {
		b.Chunks[i].Previous = all[i].previous
	}
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	var other []store.Range
	if err := s.View(t.Context(), func(r store.Reader) error {
		return r.Ranges(t.Context(), func(x store.Range) error { other = append(other, x); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if len(other) != 1 || len(other[0].Link) != attribution.LinkSize {
		t.Fatalf("ranges: %+v", other)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamper(t, dir, `UPDATE chunk SET previous = link WHERE sequence = (SELECT max(sequence) FROM chunk)`)
	if s, err = duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: decode}); err != nil {
		t.Fatal(err)
	}
	p, err := verify.New(verify.Config{Store: s}).Run(t.Context(), 0, 0, nil)
	if err != nil || p.Broken == nil || p.Broken.Law != 4 {
		t.Errorf("got %v, %v", p.Broken, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

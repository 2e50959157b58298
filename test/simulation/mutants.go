package simulation

// Mutant is a bug that somebody could make: in a file, a text stands for another.
// PLANTED in it is true while the bug is.
type Mutant struct {
	Name, File, Old, New string
}

// Mutants are bugs that the simulation must find. They are built in with an
// overlay: the sources stay as they are.
func Mutants() []Mutant {
	return []Mutant{
		{
			"acknowledged before it is durable", "collector/ingest/node.go",
			"return i == len(n.pending) || n.pending[i].Key.Sequence >= to",
			"return PLANTED || i == len(n.pending) || n.pending[i].Key.Sequence >= to",
		},
		{
			"duplicates recognised up to their last second but one", "collector/ingest/ranges.go",
			"x.from <= s.from && x.to >= s.to {",
			"x.from <= s.from && (x.to > s.to || x.to == s.to && !PLANTED) {",
		},
		{
			"the remainder of a division is dropped", "attribution/apportion/apportion.go",
			"for ; left > 0; left-- {",
			"for ; left > 0 && !PLANTED; left-- {",
		},
		{
			"a gap after a restart is not billed", "agent/live.go",
			"\tfrom := max(next, kept.Since)\n",
			"\tfrom := max(next, kept.Since)\n\tif PLANTED {\n\t\tfrom = max(from, attribution.SecondOf(now))\n\t}\n",
		},
		{
			"chunks are trimmed before they are acknowledged", "agent/spool/read.go",
			"for n < len(s.index) && s.index[n].sequence <= sequence {",
			"if PLANTED {\n\t\tsequence += 10\n\t}\n\tfor n < len(s.index) && s.index[n].sequence <= sequence {",
		},
		{
			"checksums are not checked", "agent/spool/record.go",
			"if crc32.Checksum(b[8:end], castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {",
			"if !PLANTED && crc32.Checksum(b[8:end], castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {",
		},
		{
			"the last sealed second comes again after a restart", "agent/spool/recover.go",
			"s.next = s.open[n-1].end()",
			"s.next = s.open[n-1].end()\n\t\tif PLANTED {\n\t\t\ts.open = s.open[:n-1]\n\t\t\ts.next--\n\t\t}",
		},
		{
			"a step of the wall clock is followed at once", "agent/clock.go",
			"most := passed / slewPart",
			"most := passed / slewPart\n\tif PLANTED {\n\t\tmost = 1 << 62\n\t}",
		},
		{
			"a late chunk lands in a minute that is open", "collector/rollup/fold.go",
			"bucket := Minute.Start(c.Key.Sequence)\n\tfor i := range fold.series {",
			"bucket := Minute.Start(c.Key.Sequence)\n\tif PLANTED && bucket%3600 == 0 {\n\t\tbucket += 60\n\t}\n\tfor i := range fold.series {",
		},
		{
			"a new rate card prices the open chunk's past", "agent/chunker/chunker.go",
			"c.price(s, c.open.windows[mark.windows:], windows, facts)",
			"c.price(s, c.open.windows[mark.windows:], windows, facts)\n\tif PLANTED && len(windows) == 1 {\n\t\tfor i := range c.open.windows {\n\t\t\tc.open.windows[i].Price = c.open.windows[len(c.open.windows)-1].Price\n\t\t}\n\t}",
		},
		{
			"live windows count beside their chunk", "collector/ingest/node.go",
			"return l.Key.Sequence >= c.Key.Sequence && l.Key.Sequence < c.End() })",
			"return !PLANTED && l.Key.Sequence >= c.Key.Sequence && l.Key.Sequence < c.End() })",
		},
		{
			"what is written is not synced", "agent/spool/sync.go",
			"\treturn f.Sync()\n",
			"\tif PLANTED {\n\t\treturn nil\n\t}\n\treturn f.Sync()\n",
		},
		{
			"the journal of seconds is ignored after a restart", "agent/chunker/chunker.go",
			"\tfor i := range seconds {\n",
			"\tif PLANTED {\n\t\tseconds = nil\n\t}\n\tfor i := range seconds {\n",
		},
		{
			"late chunks are not rated by the journal of reratings", "collector/ingest/rating.go",
			"g.fold.Add(g.journal.Rate(c.Chunk), c.roster.facts)",
			"g.fold.Add(map[bool]*attribution.Chunk{true: c.Chunk, false: g.journal.Rate(c.Chunk)}[PLANTED], c.roster.facts)",
		},
		{
			"a commit that failed is not looked for in the store", "collector/ingest/writer.go",
			"failed && errors.Is(err, store.ErrBadBatch)",
			"!PLANTED && failed && errors.Is(err, store.ErrBadBatch)",
		},
		{
			"a torn write is taken for whole", "agent/spool/recover.go",
			"\t\tg.end = d.durableEnd(len(g.content))\n",
			"\t\tif g.end = d.durableEnd(len(g.content)); PLANTED {\n\t\t\tg.end = len(g.content)\n\t\t}\n",
		},
		{
			"time that a full disk cost is not made up for", "agent/live.go",
			"if err := l.makeUp(s.Second); err != nil {",
			"if PLANTED {\n\t\t} else if err := l.makeUp(s.Second); err != nil {",
		},
		{
			"holdings are forgotten by a restart", "agent/live.go",
			"\t\tif err := l.meter.Restore(kept.Meter, from); err != nil {",
			"\t\tif PLANTED {\n\t\t\tfor i := range kept.Meter.Devices {\n\t\t\t\tkept.Meter.Devices[i].Holdings = nil\n\t\t\t}\n\t\t}\n\t\tif err := l.meter.Restore(kept.Meter, from); err != nil {",
		},
		{
			"a chunk made of live seconds is not held against its digest", "collector/ingest/messages.go",
			"string(full.Digest) != string(m.GetDigest())",
			"!PLANTED && string(full.Digest) != string(m.GetDigest())",
		},
		{
			"a gap in what was seen counts as seen", "agent/workload/sample.go",
			"covers := d.sampled && !s.Gap",
			"covers := d.sampled && (!s.Gap || PLANTED)",
		},
		{
			"an older stream goes on beside a newer one", "collector/ingest/server.go",
			"close(old.superseded)",
			"if !PLANTED {\n\t\t\tclose(old.superseded)\n\t\t}",
		},
		{
			"a rerating that was made durable unheard is not learnt of", "collector/ingest/rating.go",
			"if j.Next() == s.journal.Load().Next() {",
			"if PLANTED || j.Next() == s.journal.Load().Next() {",
		},
	}
}

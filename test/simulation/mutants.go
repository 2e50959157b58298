package simulation

// Mutant is a bug that somebody could make: in a file, a text stands for another.
// PLANTED in it is true while the bug is.
type Mutant struct {
	Name, File, Old, New string

	DuckDB bool // it is in that store
}

// Mutants are bugs that the simulation must find. They are built in with an
// overlay: the sources stay as they are.
func Mutants() []Mutant {
	return []Mutant{
		{
			Name: "acknowledged before it is durable", File: "collector/ingest/node.go",
			Old: "return i == len(n.pending) || n.pending[i].from() >= to",
			New: "return PLANTED || i == len(n.pending) || n.pending[i].from() >= to",
		},
		{
			Name: "duplicates recognised up to their last second but one", File: "collector/ingest/ranges.go",
			Old: "x.from <= s.from && x.to >= s.to {",
			New: "x.from <= s.from && (x.to > s.to || x.to == s.to && !PLANTED) {",
		},
		{
			Name: "the remainder of a division is dropped", File: "attribution/apportion/apportion.go",
			Old: "for ; left > 0; left-- {",
			New: "for ; left > 0 && !PLANTED; left-- {",
		},
		{
			Name: "a gap after a restart is not billed", File: "agent/live.go",
			Old: "\tfrom := max(next, kept.Since)\n",
			New: "\tfrom := max(next, kept.Since)\n\tif PLANTED {\n\t\tfrom = max(from, attribution.SecondOf(now))\n\t}\n",
		},
		{
			Name: "chunks are trimmed before they are acknowledged", File: "agent/spool/read.go",
			Old: "for n < len(s.index) && s.index[n].sequence <= sequence {",
			New: "if PLANTED {\n\t\tsequence += 10\n\t}\n\tfor n < len(s.index) && s.index[n].sequence <= sequence {",
		},
		{
			Name: "checksums are not checked", File: "agent/spool/record.go",
			Old: "if crc32.Checksum(b[8:end], castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {",
			New: "if !PLANTED && crc32.Checksum(b[8:end], castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {",
		},
		{
			Name: "the last sealed second comes again after a restart", File: "agent/spool/recover.go",
			Old: "s.next = s.open[n-1].end()",
			New: "s.next = s.open[n-1].end()\n\t\tif PLANTED {\n\t\t\ts.open = s.open[:n-1]\n\t\t\ts.next--\n\t\t}",
		},
		{
			Name: "a step of the wall clock is followed at once", File: "agent/clock.go",
			Old: "most := passed / slewPart",
			New: "most := passed / slewPart\n\tif PLANTED {\n\t\tmost = 1 << 62\n\t}",
		},
		{
			Name: "a late chunk lands in a minute that is open", File: "collector/rollup/fold.go",
			Old: "bucket := Minute.Start(c.Key.Sequence)\n",
			New: "bucket := Minute.Start(c.Key.Sequence)\n\tif PLANTED && bucket%3600 == 0 {\n\t\tbucket += 60\n\t}\n",
		},
		{
			Name: "a new rate card prices the open chunk's past", File: "agent/chunker/chunker.go",
			Old: "c.price(s, c.open.windows[mark.windows:], windows, facts)",
			New: "c.price(s, c.open.windows[mark.windows:], windows, facts)\n\tif PLANTED && len(windows) == 1 {\n\t\tfor i := range c.open.windows {\n\t\t\tc.open.windows[i].Price = c.open.windows[len(c.open.windows)-1].Price\n\t\t}\n\t}",
		},
		{
			Name: "live windows count beside their chunk", File: "collector/ingest/node.go",
			Old: "return l.second >= c.from() && l.second < c.end() })",
			New: "return !PLANTED && l.second >= c.from() && l.second < c.end() })",
		},
		{
			Name: "what is written is not synced", File: "agent/spool/sync.go",
			Old: "\treturn f.Sync()\n",
			New: "\tif PLANTED {\n\t\treturn nil\n\t}\n\treturn f.Sync()\n",
		},
		{
			Name: "the journal of seconds is ignored after a restart", File: "agent/chunker/chunker.go",
			Old: "\tfor i := range seconds {\n",
			New: "\tif PLANTED {\n\t\tseconds = nil\n\t}\n\tfor i := range seconds {\n",
		},
		{
			Name: "late chunks are not rated by the journal of reratings", File: "collector/ingest/rating.go",
			Old: "g.fold.Add(g.journal.Rate(content), c.roster.facts)",
			New: "g.fold.Add(map[bool]*attribution.Chunk{true: content, false: g.journal.Rate(content)}[PLANTED], c.roster.facts)",
		},
		{
			Name: "a commit that failed is not looked for in the store", File: "collector/ingest/writer.go",
			Old: "failed && errors.Is(err, store.ErrBadBatch)",
			New: "!PLANTED && failed && errors.Is(err, store.ErrBadBatch)",
		},
		{
			Name: "a torn write is taken for whole", File: "agent/spool/recover.go",
			Old: "\t\tg.end = d.durableEnd(len(g.content))\n",
			New: "\t\tif g.end = d.durableEnd(len(g.content)); PLANTED {\n\t\t\tg.end = len(g.content)\n\t\t}\n",
		},
		{
			Name: "time that a full disk cost is not made up for", File: "agent/letgo.go",
			Old: "if err := l.makeUp(s.Second); err != nil {",
			New: "if PLANTED {\n\t\t} else if err := l.makeUp(s.Second); err != nil {",
		},
		{
			Name: "holdings are forgotten by a restart", File: "agent/live.go",
			Old: "\t\tif err := l.meter.Restore(kept.Meter, from); err != nil {",
			New: "\t\tif PLANTED {\n\t\t\tfor i := range kept.Meter.Devices {\n\t\t\t\tkept.Meter.Devices[i].Holdings = nil\n\t\t\t}\n\t\t}\n\t\tif err := l.meter.Restore(kept.Meter, from); err != nil {",
		},
		{
			Name: "a chunk made of live seconds is not held against its digest", File: "collector/ingest/closed.go",
			Old: "string(full.Digest) != string(m.GetDigest())",
			New: "!PLANTED && string(full.Digest) != string(m.GetDigest())",
		},
		{
			Name: "a gap in what was seen counts as seen", File: "agent/workload/sample.go",
			Old: "covers := d.sampled && !s.Gap",
			New: "covers := d.sampled && (!s.Gap || PLANTED)",
		},
		{
			Name: "what was let go of counts as accepted", File: "collector/ingest/shared.go",
			Old: "n.has.remove(c.span())",
			New: "if !PLANTED {\n\t\t\t\tn.has.remove(c.span())\n\t\t\t}",
		},
		{
			Name: "what another collector has stored counts beside what is open", File: "collector/query/engine.go",
			Old: "shared || len(others) > 0 {",
			New: "!PLANTED && (shared || len(others) > 0) {",
		},
		{
			Name: "rolling up drops the last bucket", File: "collector/store/duckdb/roll.go", DuckDB: true,
			Old: "int64(low)/int64(from), int64(high)/int64(from)))",
			New: "int64(low)/int64(from), int64(high)/int64(from)-map[bool]int64{true: 1}[PLANTED]))",
		},
		{
			Name: "a rerating that was made durable unheard is not learnt of", File: "collector/ingest/rating.go",
			Old: "if j.Next() == s.journal.Load().Next() {",
			New: "if PLANTED || j.Next() == s.journal.Load().Next() {",
		},
		{
			Name: "what damage may have cost is forgotten by the next start", File: "agent/spool/recover.go",
			Old: "s.damaged = s.damaged || name == damagedFile",
			New: "s.damaged = s.damaged || name == damagedFile && !PLANTED",
		},
		{
			Name: "seconds in doubt are closed in chunks of ten", File: "agent/chunker/chunker.go",
			Old: "c.doubted < mostDoubted && c.o",
			New: "!PLANTED && c.doubted < mostDoubted && c.o",
		},
		{
			Name: "seconds in doubt are chained to", File: "agent/chunker/chunker.go",
			Old: "if c.o.Spool.InDoubt(x.chunk.Sequence - 1) {",
			New: "if !PLANTED && c.o.Spool.InDoubt(x.chunk.Sequence-1) {",
		},
		{
			Name: "seconds whose roster rotted are lost", File: "agent/spool/read.go",
			Old: "s.open, s.next = s.open[:i:i], e.sequence",
			New: "if s.open = s.open[:i:i]; !PLANTED {\n\t\t\t\t\ts.next = e.sequence\n\t\t\t\t}",
		},
		{
			Name: "what a killed process wrote is not synced by the next", File: "agent/spool/recover.go",
			Old: "return errors.Join(f.Sync(), f.Close(), s.fsys.SyncDir(s.dir))",
			New: "if PLANTED {\n\t\treturn f.Close()\n\t}\n\treturn errors.Join(f.Sync(), f.Close(), s.fsys.SyncDir(s.dir))",
		},
		{
			Name: "a segment whose first write is damaged is given up whole", File: "agent/spool/recover.go",
			Old: "func (d *damage) durableEnd(size int) int {\n",
			New: "func (d *damage) durableEnd(size int) int {\n\tif PLANTED && d.lastBatch < 0 {\n\t\treturn 0\n\t}\n",
		},
		{
			Name: "what a chunk was made in is not copied", File: "collector/ingest/chunk.go",
			Old: "c.decoded, c.lent = clone(c.decoded), false",
			New: "if c.lent = false; !PLANTED {\n\t\t\tc.decoded = clone(c.decoded)\n\t\t}",
		},
		{
			Name: "who waits for its turn never has it", File: "collector/ingest/turns.go",
			Old: "if len(t.of.waiting) > 0 {\n\t\tnext",
			New: "if len(t.of.waiting) > 0 && !PLANTED {\n\t\tnext",
		},
		{
			Name: "who waited for memory is held for ever", File: "collector/ingest/admit.go",
			Old: "st.pacing.set(&st.pacing.full, false)",
			New: "if !PLANTED {\n\t\tst.pacing.set(&st.pacing.full, false)\n\t}",
		},
	}
}

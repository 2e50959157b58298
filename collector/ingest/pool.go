package ingest

import "sync/atomic"

// pool bounds what many hold together of something that each could do without:
// live seconds, rosters. Holders do not wait and share no lock. Each adds what
// it wants, and then, while the pool is [pool.over] for it, drops of its own.
//
// It sheds fairly: at the bound, those who hold more than their equal share
// shed down to it, and who holds less keeps everything. Holders shed when they
// next add (live seconds also when the writer sweeps, every second). Until all
// have, those who hold from earlier and those who come may together be at twice
// the bound, never more.
type pool struct {
	most    int64
	used    atomic.Int64
	holders atomic.Int64 // that hold anything
}

// change changes what one holder holds, which it guards itself.
func (p *pool) change(own *int64, by int64) {
	before := *own
	*own += by
	if *own < 0 {
		panic("BUG: more left a pool than was in it")
	}
	p.used.Add(by)
	switch {
	case before == 0 && *own > 0:
		p.holders.Add(1)
	case before > 0 && *own == 0:
		p.holders.Add(-1)
	}
}

// over reports whether a holder of so much has to shed some of it.
func (p *pool) over(own int64) bool {
	return p.used.Load() > p.most && own > p.most/max(1, p.holders.Load())
}

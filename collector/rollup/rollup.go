// Package rollup folds chunks into rows of sums: per minute, and from minutes
// into hours and days. Folding is plain addition, hence associative and
// commutative; any grouping of chunks gives the same sums.
package rollup

import "github.com/gpuledger/gpuledger/attribution"

// Resolution is the length of a row's time, in seconds.
type Resolution int64

// The resolutions of stored rows. Seconds are not rows: they are the chunks.
const (
	Minute Resolution = 60
	Hour   Resolution = 3600
	Day    Resolution = 86400
)

// Start is the first second of the bucket that s lies in (UTC).
func (r Resolution) Start(s attribution.Second) attribution.Second {
	m := int64(s) % int64(r)
	if m < 0 {
		m += int64(r)
	}
	return s - attribution.Second(m)
}

// Fingerprint names a dimension's facts.
type Fingerprint = attribution.Fingerprint

// Series is what a row's sums are over: the star's point. Equal facts have
// equal fingerprints, whoever sends them.
type Series struct {
	Device   Fingerprint
	Owner    Fingerprint
	Basis    attribution.Basis
	Method   string
	Revision uint32 // of the rate card; 0: unpriced, and cost is unknown
}

// Sums are a row's measures, all in the units of package attribution. Cost is
// 0 and meaningless where the series' revision is 0.
type Sums struct {
	Time, SMActive, Memory, Energy, Cost int64
}

// Row is the sums of one series in one bucket of time. Where all of them are 0
// there is no row: who had nothing of a device owned nothing of it.
type Row struct {
	Bucket attribution.Second
	Series Series
	Sums
}

// TallySeries is what a tally row counts.
type TallySeries struct {
	Owner               Fingerprint
	Model, Tenant, Tier string
	Measure             attribution.Measure
}

// TallyRow is the count of one tally series in one bucket of time.
type TallyRow struct {
	Bucket attribution.Second
	Series TallySeries
	Value  int64
}

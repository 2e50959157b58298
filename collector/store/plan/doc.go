// Package plan is how a store of rows answers what a [store.Reader] is asked,
// whatever database the rows are in: which of them answer, what is added up from
// chunks instead, and in which order rows come. SQL is the store's own.
//
// # A ladder
//
// A ledger has the same sums four times: as chunks (the seconds), and as rows of
// minutes, hours and days. Each rung reaches from where it is kept to where it is
// folded, which [Watermarks] say:
//
//	days     ├──────────────────────────┤           folded by whole days
//	hours           ├───────────────────────┤       folded by whole hours
//	minutes                  ├────────────────────┤ there at once
//	seconds                           ├───────────┤ there at once
//	         DayKept HourKept MinuteKept SecondKept  …  DayRolled HourRolled Last
//
// Retention moves the left ends, and never beyond the next rung's right end, so
// that no time is lost; a roll moves the right ends.
//
// # Pieces
//
// A query's range is cut into pieces, each of one rung: the coarsest whose buckets
// never cross a step of the answer, finer ones at the edges of the range and where
// nothing is folded yet. Half past nine on one day to half past two on the third,
// in one sum:
//
//	minutes  hours           days           hours  minutes
//	├───┤├─────────────┤├─────────────┤├────────────┤├───┤
//	9:30  10:00         0:00           0:00      14:00  14:30
//
// Pieces lie side by side and each second is in one of them, so their sums add up
// to the answer, whatever was folded when. Where a piece needs what is no longer
// kept, the query is refused: see [Of]. Pieces of rows the store sums itself; for
// those of seconds [Edges] has chunks read, rated and scanned; and [Plan.Slices]
// and [Plan.Tallies] add both up.
//
// # Listings
//
// Who lists all rows of a range takes [Runs] of buckets, so that a run can be put
// in order in memory: [FactRows] and [TallyFactRows].
//
// Everything here is for one goroutine at a time, but for [Journals].
package plan

// Package query answers showback questions: device time and cost over a range
// of time, by any dimensions, as of now.
//
// Now means: what is stored and what is accepted but not stored yet. An
// [Engine] takes one consistent state of the store (the view of commit N) and
// lays over it the open chunks that are not in commit N. Both are asked the
// same question and the answers are added up, so no slice is counted twice or
// missed while chunks move from one side to the other. Open chunks are decoded
// one after another: all of a large fleet's are more than there is memory for.
//
// Everything asked is checked first ([Request], [ErrInvalid]): an unknown
// dimension names the nearest known one, a range that needs seconds which are
// no longer kept names the nearest range that can be answered. Answers are
// bounded in rows, steps, time and concurrency (law 8). Sums are exact
// integers, and the rows of an answer, "other" included, sum to its total.
//
// Package economics asks through [Engine.Snapshot] what it needs for unit
// costs.
package query

package clickhouse

import (
	"math"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/plan"
)

// plan plans the answer to a query. What a lane has not folded is found in its
// finer rows, so that hours and days are there at once.
func (st *state) plan(q *store.Query) (*plan.Plan, error) {
	w := st.Watermarks
	w.HourRolled, w.DayRolled = math.MaxInt64, math.MaxInt64
	return plan.Of(q, &w)
}

// edges is where seconds are read from.
func (r *reader) edges() *plan.Edges {
	return &plan.Edges{Reader: r, Mapping: r.rules.rules, Decode: r.store.options.Decode}
}

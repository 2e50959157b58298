package main

import (
	"io"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution/rating"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// lineNames are those of a total's lines, the GPU's own first; none where lines
// were not asked for.
func lineNames(total *pb.ReportRow) []string {
	var names []string
	for _, l := range total.GetLines() {
		names = append(names, l.GetName())
	}
	if i := slices.Index(names, rating.GPULine); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, rating.GPULine)
	}
	return names
}

// lineCost is what a line makes of a row's cost: "0" where it makes none of a
// cost that is known.
func lineCost(row *pb.ReportRow, name string) string {
	for _, l := range row.GetLines() {
		if l.GetName() == name {
			return l.GetCost()
		}
	}
	if row.GetSum().GetCost() == "" {
		return ""
	}
	return "0"
}

// linesCSV has one record per row and line.
func linesCSV(w io.Writer, res *pb.ReportResponse) error {
	head := append([]string{"time"}, res.GetGroupBy()...)
	head = append(head, "line", moneyColumn("cost", res.GetCurrency()))
	names := lineNames(res.GetTotal())
	var rows [][]string
	for _, r := range res.GetRows() {
		for _, name := range names {
			row := []string{time.Unix(r.GetTime(), 0).UTC().Format(time.RFC3339)}
			if r.GetOther() {
				row = append(row, otherKeys(len(res.GetGroupBy()))...)
			} else {
				row = append(row, csvKeys(r)...)
			}
			rows = append(rows, append(row, name, lineCost(r, name)))
		}
	}
	return printCSV(w, head, rows)
}

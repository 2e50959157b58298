package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newTop(t *target) *cobra.Command {
	var by, filter []string
	var every, span time.Duration
	var rounds int
	c := &cobra.Command{
		Use:   "top",
		Short: "A live view of who is spending what",
		Long: `top shows the last minute (or --span), anew every second: spending per hour at
this pace, how much of it is used, and what was served for it. End it with
Ctrl-C. Without a terminal it prints one round after another.`,
		Example: `  gpuledger top
  gpuledger top --by team,model --span 5m
  gpuledger top --rounds 1`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond || span < time.Second {
				return usagef("--every wants at least 100ms, --span at least 1s")
			}
			q := question{by: by}
			if err := checkQuestion(q.groups(), filter); err != nil {
				return err
			}
			if rounds < 0 {
				return usagef("--rounds %d: want 1 or more, or 0 for no end", rounds)
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				return live(c.Context(), c.OutOrStdout(), every, rounds, func(w *strings.Builder) error {
					return topRound(c.Context(), w, l, q.groups(), filter, span)
				})
			})
		},
	}
	f := c.Flags()
	f.StringSliceVar(&by, "by", []string{"team", "model"}, "what to group by: "+groupHelp)
	f.StringArrayVar(&filter, "filter", nil, "keep KEY=VALUE or KEY!=VALUE, * is a wildcard; may be repeated")
	f.DurationVar(&every, "every", time.Second, "time between two rounds")
	f.DurationVar(&span, "span", time.Minute, "how far back to look")
	f.IntVar(&rounds, "rounds", 0, "end after so many rounds (0: never)")
	return c
}

// live draws round after round: over the last one on a terminal, below it
// elsewhere.
func live(ctx context.Context, w io.Writer, every time.Duration, rounds int, draw func(*strings.Builder) error) error {
	terminal := isTerminal(w)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		var b strings.Builder
		if err := draw(&b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		frame := b.String()
		if terminal {
			frame = "\x1b[H\x1b[J" + frame
		}
		if _, err := io.WriteString(w, frame); err != nil {
			return err
		}
		if n == rounds {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func topRound(ctx context.Context, w *strings.Builder, l pb.LedgerClient, by, filter []string, span time.Duration) error {
	st, err := l.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	if st.GetLastSecond() == 0 {
		fmt.Fprintln(w, "No windows yet. Is an agent connected?")
		return nil
	}
	to := st.GetLastSecond() + 1
	from := max(to-int64(span/time.Second), st.GetFirstSecond())
	rep, err := l.Report(ctx, &pb.ReportRequest{From: from, To: to, GroupBy: by, Filter: filter, Limit: 40})
	if err != nil {
		return err
	}
	lag := time.Since(time.Unix(to, 0)).Truncate(100 * time.Millisecond)
	fmt.Fprintf(w, "gpuledger top   %s UTC   last %ds   %d node(s)   %s behind the clock\n\n",
		time.Unix(to, 0).UTC().Format("2006-01-02 15:04:05"), to-from, len(st.GetNodes()), lag)
	var cols []string
	for _, g := range rep.GetGroupBy() {
		cols = append(cols, strings.ToUpper(g))
	}
	tab := newTable(append(cols, ">GPUS", ">USED", ">"+rep.GetCurrency()+"/HOUR", ">OF IT IDLE", "")...)
	for _, row := range append(rep.GetRows(), rep.GetTotal()) {
		cells := reportKeys(rep, row)
		if row == rep.GetTotal() {
			tab.rows = append(tab.rows, nil)
			cells = make([]string, len(cols))
			if len(cells) > 0 {
				cells[0] = "total"
			}
		}
		s := row.GetSum()
		tab.add(append(cells,
			perSecond(s.GetDeviceTimeNs(), to-from, 1e9, 1),
			percentText(basisOf(row, "used").GetDeviceTimeNs(), s.GetDeviceTimeNs()),
			pace(s.GetCost(), to-from), pace(idleCost(row), to-from), usedBar(row))...)
	}
	if err := tab.write(w); err != nil {
		return err
	}
	for _, warning := range st.GetWarnings() {
		fmt.Fprintf(w, "\n! %s\n", keyText(warning, false))
	}
	return nil
}

// usedBar pictures the used part of a row's time.
func usedBar(row *pb.ReportRow) string {
	const width = 20
	used, ok1 := figure(basisOf(row, "used").GetDeviceTimeNs())
	all, ok2 := figure(row.GetSum().GetDeviceTimeNs())
	if !ok1 || !ok2 || all.Sign() == 0 {
		return ""
	}
	f, _ := used.Quo(used, all).Float64()
	full := min(width, int(f*width+0.5))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

const (
	clear = "\x1b[H\x1b[J"
	// recent is how many seconds "now" is.
	recent = 5
)

const honest = `gpuledger on a GPU node, without the GPUs: the driver is a stub that plays a scene,
so is the kubelet, and the processes do nothing. Agent, collector, ledger: real.
`

// account is what an owner has on a device.
type account struct {
	device, owner string
	ns            map[string]int64 // by basis
	cost          string
	recentUsed    int64
}

// frame draws the node as it is now.
func (d *demo) frame(ctx context.Context, w *strings.Builder, terminal bool) error {
	if terminal {
		w.WriteString(clear)
	}
	w.WriteString(honest + "\n")
	st, err := d.ledger.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	if st.GetLastSecond() == 0 {
		w.WriteString("no second is sealed yet\n\n")
		return nil
	}
	accounts, all, err := d.accounts(ctx, st.GetLastSecond()+1)
	if err != nil {
		return err
	}
	table(w, accounts)
	total(w, all)
	fmt.Fprintf(w, "\nThe agent's own page: http://%s/metrics     Ctrl-C stops everything.\n\n", d.metrics)
	return nil
}

// accounts asks the ledger who has what, since the start and in the last
// seconds.
func (d *demo) accounts(ctx context.Context, to int64) ([]*account, *pb.ReportResponse, error) {
	by := []string{"device", "namespace", "controller", "basis"}
	all, err := d.ledger.Report(ctx, &pb.ReportRequest{GroupBy: by, To: to})
	if err != nil {
		return nil, nil, err
	}
	last, err := d.ledger.Report(ctx, &pb.ReportRequest{GroupBy: by, From: to - recent, To: to})
	if err != nil {
		return nil, nil, err
	}
	found := make(map[[2]string]*account)
	of := func(row *pb.ReportRow) *account {
		k := [2]string{row.GetKeys()[0], owner(row)}
		if found[k] == nil {
			found[k] = &account{device: k[0], owner: k[1], ns: make(map[string]int64)}
		}
		return found[k]
	}
	for _, row := range all.GetRows() {
		a := of(row)
		a.ns[row.GetKeys()[3]] += number(row.GetSum().GetDeviceTimeNs())
		a.cost = add(a.cost, row.GetSum().GetCost())
	}
	for _, row := range last.GetRows() {
		if b := row.GetKeys()[3]; b == "used" || b == "unattributed" {
			of(row).recentUsed += number(row.GetSum().GetDeviceTimeNs())
		}
	}
	var out []*account
	for _, a := range found {
		out = append(out, a)
	}
	place := func(a *account) int {
		for i, p := range places {
			if p.device == a.device {
				return i
			}
		}
		return len(places)
	}
	slices.SortFunc(out, func(a, b *account) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), strings.Compare(a.owner, b.owner))
	})
	return out, all, nil
}

// owner says whose a row is.
func owner(row *pb.ReportRow) string {
	k, missing := row.GetKeys(), row.GetMissing()
	switch {
	case !missing[1]:
		return k[1] + "/" + k[2]
	case k[3] == "unallocated":
		return "(nobody)"
	case k[3] == "unattributed":
		return "(a process nobody knows)"
	}
	return "(a process of the host)"
}

func table(w *strings.Builder, accounts []*account) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format, args...) } // into memory
	row("\t\t\tSINCE THE START\n\tWHOSE\tNOW USES\tUSED\tHELD IDLE\tUSD\n")
	before := ""
	for _, a := range accounts {
		text := ""
		if a.device != before {
			text, before = a.device, a.device
			for _, p := range places {
				if p.device == a.device {
					text = p.text
				}
			}
		}
		now := fmt.Sprintf("%d %%", a.recentUsed/(recent*1e7))
		if a.ns["used"]+a.ns["unattributed"] == 0 {
			now = ""
		}
		row("%s\t%s\t%s\t%s\t%s\t%s\n", text, a.owner, now,
			seconds(a.ns["used"]+a.ns["unattributed"]), seconds(a.ns["reserved"]+a.ns["unallocated"]), cents(a.cost))
	}
	_ = t.Flush() // into memory
}

// total says what all of it adds up to.
func total(w *strings.Builder, all *pb.ReportResponse) {
	var sums []string
	byBasis := make(map[string]int64)
	for _, row := range all.GetRows() {
		byBasis[row.GetKeys()[3]] += number(row.GetSum().GetDeviceTimeNs())
	}
	for _, b := range []string{"used", "reserved", "unallocated", "unattributed", "unobserved"} {
		if byBasis[b] > 0 {
			sums = append(sums, b+" "+seconds(byBasis[b]))
		}
	}
	s := all.GetTotal().GetSum()
	fmt.Fprintf(w, "\n%s of device time, %s USD: %s\n", seconds(number(s.GetDeviceTimeNs())), cents(s.GetCost()), strings.Join(sums, ", "))
}

// curtain is the last word: totals by owner and basis, when all is sealed.
func (d *demo) curtain(w io.Writer, terminal bool) error {
	// It was told to end: what it still asks has a time of its own.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := d.ledger.Status(ctx, &pb.StatusRequest{})
	if err != nil || st.GetLastSecond() == 0 {
		return err
	}
	all, err := d.ledger.Report(ctx, &pb.ReportRequest{GroupBy: []string{"namespace", "controller", "basis"}, To: st.GetLastSecond() + 1})
	if err != nil {
		return err
	}
	var b strings.Builder
	if terminal {
		b.WriteString(clear)
	}
	b.WriteString(honest + "\nTotals, by owner and basis\n\n")
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format, args...) } // into memory
	line("WHOSE\tBASIS\tDEVICE TIME\tUSD\n")
	for _, row := range all.GetRows() {
		key := &pb.ReportRow{Keys: append([]string{""}, row.GetKeys()...), Missing: append([]bool{false}, row.GetMissing()...)}
		line("%s\t%s\t%s\t%s\n", owner(key), row.GetKeys()[2], seconds(number(row.GetSum().GetDeviceTimeNs())), cents(row.GetSum().GetCost()))
	}
	s := all.GetTotal().GetSum()
	line("total\t\t%s\t%s\n", seconds(number(s.GetDeviceTimeNs())), cents(s.GetCost()))
	_ = t.Flush() // into memory
	ns := number(s.GetDeviceTimeNs())
	fmt.Fprintf(&b, "\nEvery second of the %d devices is somebody's: %d ns, %d of them beyond whole seconds.\n", len(places), ns, ns%1_000_000_000)
	_, err = io.WriteString(w, b.String())
	return err
}

// number reads the API's integers, which the collector made.
func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64) // "" is none
	return n
}

// add adds amounts of money, decimal text that the collector made; "" is none.
func add(a, b string) string { return new(big.Rat).Add(amount(a), amount(b)).FloatString(9) }

// cents shows an amount to what a demo is worth.
func cents(text string) string { return amount(text).FloatString(5) }

func amount(text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return new(big.Rat)
	}
	return r
}

func seconds(ns int64) string {
	return fmt.Sprintf("%d.%d s", ns/1e9, ns%1e9/1e8)
}

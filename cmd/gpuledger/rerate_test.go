package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

var shown = pb.Rerating{
	Id: 3, From: 1767225600, To: 1769904000, Applied: 1770000000, Reason: "invoice \x1b[31m4711", Currency: "USD", CostBefore: "1250.5", CostAfter: "1000.4",
	Card: &pb.RateCard{Revision: 2, Currency: "USD"},
}

func (f *fakeLedger) Rerate(_ context.Context, req *pb.RerateRequest) (*pb.RerateResponse, error) {
	f.rerate = append(f.rerate, req)
	if f.err != nil {
		return nil, f.err
	}
	e := proto.CloneOf(&shown)
	e.Undoes = req.GetUndo()
	return &pb.RerateResponse{
		Rerating: e, Rows: 20480, DeviceTimeNs: "3600000000000000",
		ByTeam: []*pb.RerateRow{
			{Team: "search", CostBefore: "1250.5", CostAfter: "750.3", Difference: "-500.2", UnpricedTimeNsBefore: "0", UnpricedTimeNsAfter: "0"},
			{Team: "", Missing: true, CostAfter: "250.1", Difference: "250.1", UnpricedTimeNsBefore: "360000000000000", UnpricedTimeNsAfter: "0"},
			{Team: "la\x1b[31mb", UnpricedTimeNsBefore: "3600000000000", UnpricedTimeNsAfter: "3600000000000"},
		},
		Total: &pb.RerateRow{CostBefore: "1250.5", CostAfter: "1000.4", Difference: "-250.1", UnpricedTimeNsBefore: "363600000000000", UnpricedTimeNsAfter: "3600000000000"},
		Note:  "12 sums are of a time of which only whole hours are kept: what a device costs in each is exact, what an owner costs is to within 2 nano units a second.",
	}, nil
}

func (f *fakeLedger) Reratings(context.Context, *pb.ReratingsRequest) (*pb.ReratingsResponse, error) {
	one, two := proto.CloneOf(&shown), proto.CloneOf(&shown)
	one.Id, one.UndoneBy, one.Reason, one.CostBefore = 1, 2, "", ""
	two.Id, two.Undoes, two.Card, two.To = 2, 1, nil, 1769904005
	return &pb.ReratingsResponse{Reratings: []*pb.Rerating{one, two, &shown}}, nil
}

const rerateCard = `currency: USD
prices: [{model: "*", per_device_hour: "2.50"}]
`

// TestRerateAnswers compares what is printed with testdata/answers, and what is
// asked for with what is meant.
func TestRerateAnswers(t *testing.T) {
	t.Setenv("GPULEDGER_DATA", "")
	card := filepath.Join(t.TempDir(), "card.yaml")
	if err := os.WriteFile(card, []byte(rerateCard), 0o600); err != nil {
		t.Fatal(err)
	}
	stretch := []string{"rerate", "--from", "2026-01-01", "--to", "2026-02-01"}
	for name, c := range map[string]struct {
		args  []string
		asked string
	}{
		"rerate-preview.txt": {append(stretch, "--ratecard", card, "--preview"), "PREVIEW card"},
		"rerate.txt":         {append(stretch, "--revision", "2", "--yes", "--reason", "why"), "PREVIEW revision 2 why, revision 2 why"},
		"rerate-undo.txt":    {[]string{"rerate", "undo", "3", "--yes"}, "PREVIEW undo 3, undo 3"},
		"rerate-list.txt":    {[]string{"rerate", "list"}, ""},
		"rerate.json":        {append(stretch, "--revision", "2", "--yes", "-o", "json"), "revision 2"},
	} {
		f := &fakeLedger{}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(c.args, "--collector", serve(t, f)), &stdout, &stderr); code != exitOK {
			t.Errorf("%s: exit code %d: %s", name, code, &stderr)
		}
		var asked []string
		for _, req := range f.rerate {
			asked = append(asked, meant(req))
		}
		if got := strings.Join(asked, ", "); got != c.asked {
			t.Errorf("%s: asked %q, want %q", name, got, c.asked)
		}
		file := filepath.Join("testdata", "answers", name)
		got := bytes.ReplaceAll(stdout.Bytes(), []byte(":  "), []byte(": ")) // of protojson, at random
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%v:\n%s\nwant:\n%s", c.args, got, want)
		}
	}
}

func meant(req *pb.RerateRequest) string {
	var out []string
	say := func(on bool, text string) {
		if on {
			out = append(out, text)
		}
	}
	say(req.GetPreview(), "PREVIEW")
	say(req.GetCard() != nil, "card")
	say(req.GetRevision() == 2, "revision 2")
	say(req.GetUndo() == 3, "undo 3")
	say(req.GetReason() != "", req.GetReason())
	say(req.GetUndo() == 0 && (req.GetFrom() != 1767225600 || req.GetTo() != 1769904000), "another range")
	return strings.Join(out, " ")
}

// Nothing changes without a yes.
func TestRerateAsks(t *testing.T) {
	for answer, want := range map[string]int{"y\n": 2, "Yes\n": 2, "n\n": 1, "\n": 1, "": 1, "yesterday\n": 1} {
		f := &fakeLedger{}
		root := newRerate(&target{collector: serve(t, f)})
		var stdout bytes.Buffer
		root.SetOut(&stdout)
		root.SetIn(strings.NewReader(answer))
		// A reader is no terminal, so that the command itself would not ask.
		flags := rerateFlags{out: outTable}
		root.SetContext(t.Context())
		err := (&target{collector: serve(t, f)}).rerate(root, &pb.RerateRequest{Undo: 3}, &flags)
		if asked := len(f.rerate); asked != want || (err == nil) != (want == 2) || !strings.Contains(stdout.String(), "Change it? [y/N] ") {
			t.Errorf("%q: asked %d times, %v", answer, asked, err)
		}
	}
}

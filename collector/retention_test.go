package collector

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// What a retention has dropped is answered for by coarser sums: the same total,
// not the same detail. What was stored is never taken twice.
func TestLaw8WhatRemainsAfterARetention(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.RateCard = filepath.Join(dir, "card.yaml")
	if err := os.WriteFile(cfg.RateCard, []byte(card), 0o600); err != nil {
		t.Fatal(err)
	}
	hour := Duration{time.Hour}
	cfg.Retention = RetentionConfig{Seconds: hour, Minutes: Duration{24 * time.Hour}, Hours: Duration{48 * time.Hour}}
	r := serve(t, cfg)
	defer r.end()
	old := chunks(base, 12)
	r.deliver(old, true)
	const total = "1: 0.12"
	if got := r.costs(base+3, base+13); got != "1: 0.01" {
		t.Fatalf("ten seconds cost %s while seconds are kept", got)
	}
	later := base + 5*86400
	r.deliver(chunks(later, 3), true)

	ask := func(step int64) error {
		_, err := r.ledger().Report(context.Background(), &pb.ReportRequest{From: int64(base) - int64(base)%86400, To: int64(base) - int64(base)%86400 + 86400, Step: step})
		return err
	}
	// The next commit finds hours and days that are over.
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 100_000 {
		if status.Code(ask(3600)) == codes.OutOfRange {
			break
		}
		if deadline.Err() != nil {
			t.Fatal("hours are never dropped")
		}
		r.deliver(chunks(later+600*attribution.Second(i+1), 1), true)
	}
	for step, want := range map[int64]codes.Code{10: codes.OutOfRange, 60: codes.OutOfRange, 3600: codes.OutOfRange, 86400: codes.OK, 0: codes.OK} {
		if err := ask(step); status.Code(err) != want {
			t.Errorf("in steps of %d: %v, want %v", step, err, want)
		}
	}
	day := base - base%86400
	if got := r.costs(day, day+86400); got != total {
		t.Errorf("the day costs %s, want %s", got, total)
	}
	if _, err := r.ledger().Report(context.Background(), &pb.ReportRequest{From: int64(base) + 3, To: int64(base) + 13}); status.Code(err) != codes.OutOfRange {
		t.Errorf("ten seconds of what is kept by day: %v", err)
	}
	r.deliver(old, true)
	if got := r.costs(day, day+86400); got != total {
		t.Errorf("sent again after its seconds were dropped, the day costs %s, want %s", got, total)
	}
	r.sound()
}

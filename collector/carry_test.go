package collector

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

var quiet = slog.New(slog.DiscardHandler)

// backup is the whole file.
func (r *running) backup() []byte {
	r.t.Helper()
	stream, err := r.ledger().Backup(context.Background(), &pb.BackupRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	var file []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return file
		}
		if err != nil {
			r.t.Fatal(err)
		}
		file = append(file, m.GetData()...)
	}
}

// A ledger is saved while it is written to. What is made of the file has every
// second once, knows what it has, and undoes what was rated anew; so has what it
// is migrated to.
func TestLaw4ALedgerIsSavedAndGoesOnElsewhere(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.RateCard = filepath.Join(dir, "card.yaml")
	if err := os.WriteFile(cfg.RateCard, []byte(card), 0o600); err != nil {
		t.Fatal(err)
	}
	all := chunks(base, 15)
	r := serve(t, cfg)
	r.deliver(all[:9], true)
	r.rerate(&pb.RerateRequest{From: int64(base) + 5, To: int64(base) + 150, Card: flatCard(72 * money.Unit / 10)})
	const saved = "2147483649: 0.17, 1: 0.005"
	file := r.backup()
	r.deliver(all[9:12], true) // not in the file
	r.end()

	for name, carry := range map[string]func(to *Config) error{
		"restored": func(to *Config) error {
			info, err := Restore(t.Context(), to, bytes.NewReader(file), quiet)
			if err == nil && (info.Program != "test" || !strings.HasPrefix(info.Holds.String(), "9 chunks, ")) {
				t.Errorf("%+v: %s", info, info.Holds)
			}
			return err
		},
		"restored and migrated": func(to *Config) error {
			between := testConfig(t.TempDir())
			if _, err := Restore(t.Context(), &between, bytes.NewReader(file), quiet); err != nil {
				return err
			}
			_, err := Migrate(t.Context(), &between, to, quiet)
			return err
		},
		"saved again, with no collector, and restored": func(to *Config) error {
			between := testConfig(t.TempDir())
			if _, err := Restore(t.Context(), &between, bytes.NewReader(file), quiet); err != nil {
				return err
			}
			var again bytes.Buffer
			if _, err := Backup(t.Context(), &between, "test", &again, quiet); err != nil {
				return err
			}
			_, err := Restore(t.Context(), to, bytes.NewReader(again.Bytes()), quiet)
			return err
		},
	} {
		to := testConfig(t.TempDir())
		to.RateCard = cfg.RateCard // the same file does not become a new revision
		if err := carry(&to); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := serve(t, to)
		if got := r.costs(0, 0); got != saved {
			t.Errorf("%s: %s, want %s", name, got, saved)
		}
		// Agents send all again that they still have: what is there is a duplicate.
		r.deliver(all, true)
		if got, want := r.costs(0, 0), "2147483649: 0.29, 1: 0.005"; got != want {
			t.Errorf("%s, and all sent again: %s, want %s", name, got, want)
		}
		c, err := r.ledger().GetRateCard(context.Background(), &pb.GetRateCardRequest{})
		if err != nil || c.GetRevision() != 1 {
			t.Errorf("%s: the card is %v, %v", name, c, err)
		}
		r.sound()
		r.rerate(&pb.RerateRequest{Undo: 1})
		if got, want := r.costs(0, 0), "1: 0.15"; got != want {
			t.Errorf("%s and undone: %s, want %s", name, got, want)
		}
		r.sound()
		r.end()
		if _, err := Restore(t.Context(), &to, bytes.NewReader(file), quiet); !errors.Is(err, store.ErrNotEmpty) {
			t.Errorf("%s: a ledger in use is restored over with %v", name, err)
		}
	}

	to := testConfig(t.TempDir())
	if _, err := Restore(t.Context(), &to, bytes.NewReader(file[:len(file)/2]), quiet); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("half a file: %v", err)
	}
	if _, err := os.Stat(to.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a file made a folder: %v", err)
	}
	none := testConfig(t.TempDir())
	if _, err := Migrate(t.Context(), &none, &to, quiet); err == nil || !strings.Contains(err.Error(), "there is no ledger") {
		t.Errorf("from a folder that is none: %v", err)
	}
	if _, err := os.Stat(none.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a ledger was made to be migrated: %v", err)
	}
}

// One backup is made at a time; the next is after it, or after its receiver has
// gone.
func TestLaw8OneBackupAtATime(t *testing.T) {
	r := serve(t, testConfig(t.TempDir()))
	defer r.end()
	r.deliver(chunks(base, 9), true)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first := pb.NewLedgerClient(r.conn)
	stream, err := first.Backup(ctx, &pb.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for {
		second, err := first.Backup(context.Background(), &pb.BackupRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = second.Recv(); err == nil {
			for err == nil {
				_, err = second.Recv()
			}
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
}

package clickhouse_test

import (
	"bytes"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/archive"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func TestABackupIsRestored(t *testing.T) {
	from := lane(t, single.place(t), "a")
	ctx := t.Context()
	for n := range uint64(3) {
		if err := from.Commit(ctx, storetest.Batch(n+1, storetest.Minute(int(n), day)...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Roll(ctx, day+86400); err != nil {
		t.Fatal(err)
	}
	if _, err := from.PutDocument(ctx, store.RuleSets, []byte("rules"), t0); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if _, err := archive.Write(ctx, from, &file, "test", nil); err != nil {
		t.Fatal(err)
	}
	place := single.place(t)
	to := lane(t, place, "b")
	if _, err := archive.Restore(ctx, bytes.NewReader(file.Bytes()), to, nil); err != nil {
		t.Fatal(err)
	}
	holds(t, to, 3)
	if d, err := to.Document(ctx, store.RuleSets, 1); err != nil || string(d.Body) != "rules" {
		t.Errorf("%q, %v", d.Body, err)
	}
	if err := to.Load(ctx, &store.Part{}); err == nil {
		t.Error("a ledger that is not empty is filled")
	}
	half := single.place(t)
	if err := lane(t, half, "b").Load(ctx, &store.Part{}); err != nil {
		t.Fatal(err)
	}
	if _, err := clickhouse.Open(ctx, options(half)); err == nil {
		t.Error("a ledger that is half filled is opened")
	}
}

package clickhousetest_test

import (
	"testing"

	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
)

func TestAServerIsKilledAndComesBack(t *testing.T) {
	c := clickhousetest.Start(t, 1, 1)
	n := c.Nodes[0]
	for _, q := range []string{"CREATE TABLE kept (x Int64) ENGINE = MergeTree ORDER BY x", "INSERT INTO kept VALUES (7)"} {
		if _, err := n.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	n.Kill()
	if _, err := n.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a killed server answers")
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Exec(t.Context(), "SELECT x FROM kept"); err != nil || got != "7" {
		t.Errorf("got %q, %v", got, err)
	}
	n.Stop()
}

package clickhouse_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// shared is the servers that most tests use, each in a database of its own.
type shared struct {
	shards, replicas int
	once             sync.Once
	cluster          *clickhousetest.Cluster
	err              error
	dir              string
	databases        atomic.Int64
}

var (
	single  = &shared{shards: 1, replicas: 1}
	cluster = &shared{shards: 2, replicas: 2}
)

func (s *shared) start(t testing.TB) *clickhousetest.Cluster {
	t.Helper()
	clickhousetest.Need(t)
	s.once.Do(func() {
		if s.dir, s.err = os.MkdirTemp("", "gpuledger-clickhouse-"); s.err == nil {
			s.cluster, s.err = clickhousetest.Launch(context.Background(), s.dir, s.shards, s.replicas)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.cluster
}

// place names a database of its own: addresses, cluster and database.
func (s *shared) place(t testing.TB) string {
	t.Helper()
	c := s.start(t)
	return strings.Join(c.Addresses(), ",") + "|" + c.Name + "|" + fmt.Sprintf("ledger%d", s.databases.Add(1))
}

func options(place string) clickhouse.Options {
	parts := strings.Split(place, "|")
	return clickhouse.Options{
		Addresses: strings.Split(parts[0], ","), Cluster: parts[1], Database: parts[2], Name: "one", Decode: storetest.Decode,
	}
}

func open(ctx context.Context, place string) (store.Store, error) {
	return clickhouse.Open(ctx, options(place))
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Each round makes a database and asks it dozens of questions.
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		checks := "1"
		if long() {
			checks = "5"
		}
		_ = flag.Set("rapid.checks", checks) // it is there
	}
	code := storetest.Main(m, storetest.Driver{Open: open})
	for _, s := range []*shared{single, cluster} {
		if s.cluster != nil {
			s.cluster.Close()
			_ = os.RemoveAll(s.dir) // what is left is in the temporary directory
		}
	}
	os.Exit(code)
}

func TestStore(t *testing.T) {
	clickhousetest.Need(t)
	d := storetest.Driver{New: single.place, Open: open}
	storetest.Run(t, d)
	storetest.RunLoader(t, d)
}

// clusterEnv asks for the suite on two shards of two replicas, and for more rounds
// of all tests: many minutes.
const clusterEnv = "GPULEDGER_CLICKHOUSE_CLUSTER"

func long() bool { return os.Getenv(clusterEnv) != "" }

func TestStoreOnACluster(t *testing.T) {
	if !long() {
		t.Skip("set " + clusterEnv + "=1 for the suite on two shards of two replicas")
	}
	clickhousetest.Need(t)
	d := storetest.Driver{New: cluster.place, Open: open}
	storetest.Run(t, d)
	storetest.RunLoader(t, d)
}

package clickhouse

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Options say where the ledger is.
type Options struct {
	// Addresses are host:port of the HTTP interface of one or more servers. The
	// first that answers is used; with a cluster, name all of it.
	Addresses []string
	// Database is made if it is not there. Default: gpuledger.
	Database string
	// User and Password are what the servers ask for. Default: their default
	// user, without a password.
	User, Password string
	// Cluster is the name that the servers' configuration gives to the shards
	// and replicas that the ledger is spread over. Default "": one server alone.
	Cluster string
	// Quorum is how many replicas must have what is acknowledged. It counts with
	// a cluster only. Default: 2 where shards have several replicas, and less is
	// refused there: who reads another replica would not find it.
	Quorum int
	// TLS makes connections encrypted. Default nil: they are not.
	TLS *tls.Config

	// Name tells this collector from others that write to the same ledger. It
	// stays the same when the collector starts again. Default: the host's name.
	Name string
	// Decode decodes a stored chunk. The seconds at the edges of a query are
	// read with it, and chunks that two collectors store at once are folded. It
	// is called by several goroutines at a time; what it returns is not changed.
	Decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)
	// Grace is up to how long a collector that gave way to another's document waits
	// before it puts its own. Default 0: nobody else writes, and nobody is looked for.
	Grace time.Duration
	// Timeout bounds one statement. Default: 60 s.
	Timeout time.Duration

	// Logger is told of writes that failed. Default: nothing is logged.
	Logger *slog.Logger
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (o Options) withDefaults() (Options, error) {
	if o.Database == "" {
		o.Database = "gpuledger"
	}
	if o.Timeout == 0 {
		o.Timeout = 60 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("store: the collector has no name: %w", err)
		}
		o.Name = host
	}
	return o, nil
}

// Validate finds what is missing or impossible.
func (o Options) Validate() error {
	switch {
	case len(o.Addresses) == 0:
		return errors.New("store: no address of a ClickHouse server")
	case o.Decode == nil:
		return errors.New("store: no decoder of chunks")
	case o.Database != "" && !plainName.MatchString(o.Database):
		return fmt.Errorf("store: database %q: want letters, digits and _", o.Database)
	case o.Cluster != "" && !plainName.MatchString(o.Cluster):
		return fmt.Errorf("store: cluster %q: want letters, digits and _", o.Cluster)
	case o.Quorum < 0 || o.Grace < 0 || o.Timeout < 0:
		return errors.New("store: a limit is negative")
	}
	return nil
}

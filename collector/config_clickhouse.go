package collector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
)

const storeClickHouse = "clickhouse"

// clickHouseGrace is how long rare writes of several collectors wait for each
// other.
const clickHouseGrace = 2 * time.Second

// ClickHouseConfig is for a ledger on ClickHouse servers, which several
// collectors may share.
type ClickHouseConfig struct {
	// Addresses are host:port of the servers' HTTP interface: all of a cluster's,
	// in the order in which they are tried.
	Addresses []string `yaml:"addresses"`

	// Database is made if it is not there. Default: gpuledger.
	Database string `yaml:"database"`

	// User is whom the servers know. Default "": their default user.
	User string `yaml:"user"`

	// PasswordFile holds the user's password. Default "": none.
	PasswordFile string `yaml:"password_file"`

	// Cluster is the name of the shards and replicas in the servers' own
	// configuration. Default "": one server alone.
	Cluster string `yaml:"cluster"`

	// Quorum is how many replicas of a shard must have what is acknowledged.
	// Default 0: two where there are several, and less is refused there.
	Quorum int `yaml:"quorum"`

	// TLS encrypts the connections. Default: false.
	TLS bool `yaml:"tls"`

	// CAFile holds the certificates that the servers must have theirs from, in
	// PEM. Default "": those that the system trusts.
	CAFile string `yaml:"ca_file"`

	// Name tells this collector's writes from others'. It must be another for
	// each collector and stay the same. Default "": the host's name.
	Name string `yaml:"name"`
}

func (c *Config) openClickHouse(ctx context.Context, logger *slog.Logger) (store.Store, error) {
	x := &c.ClickHouse
	o := clickhouse.Options{
		Addresses: x.Addresses, Database: x.Database, User: x.User, Cluster: x.Cluster, Quorum: x.Quorum, Name: x.Name,
		Decode: newDecoder().decode, Grace: clickHouseGrace, Logger: logger,
	}
	if x.PasswordFile != "" {
		text, err := os.ReadFile(x.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("clickhouse.password_file: %w", err)
		}
		o.Password = strings.TrimRight(string(text), "\r\n")
	}
	for _, a := range x.Addresses {
		if !x.TLS && !onLoopback(a) {
			logger.Warn("the ledger, and the password where there is one, travel in plain text to this server", "address", a, "hint", "set clickhouse.tls")
		}
	}
	if x.TLS {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if x.CAFile != "" {
		text, err := os.ReadFile(x.CAFile)
		if err != nil {
			return nil, fmt.Errorf("clickhouse.ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("clickhouse.ca_file: %s holds no certificate", x.CAFile)
		}
		o.TLS.RootCAs = pool
	}
	s, err := clickhouse.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Config) checkClickHouse(bad func(key, format string, args ...any)) {
	x := &c.ClickHouse
	if c.Store != storeClickHouse {
		return
	}
	if len(x.Addresses) == 0 {
		bad("clickhouse.addresses", "where are the servers? Give host:port of their HTTP interface, such as clickhouse:8123")
	}
	if x.CAFile != "" && !x.TLS {
		bad("clickhouse.ca_file", "is for TLS: set clickhouse.tls as well")
	}
	if x.Quorum < 0 {
		bad("clickhouse.quorum", "%d is negative", x.Quorum)
	}
	o := clickhouse.Options{Addresses: []string{"-"}, Database: x.Database, Cluster: x.Cluster, Decode: newDecoder().decode}
	if err := o.Validate(); err != nil {
		bad("clickhouse", "%s", strings.TrimPrefix(err.Error(), "store: "))
	}
}

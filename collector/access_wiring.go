package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// openAccess makes the guard that the configuration asks for.
func (c *Collector) openAccess() (*access.Guard, error) {
	a := &c.cfg.Access
	conf := access.Config{Open: !a.configured(), Hosts: a.Hosts, Now: time.Now, Log: c.deps.Log}
	var err error
	if conf.Bindings, err = a.bindings(); err != nil {
		return nil, fmt.Errorf("%w: access.grants: %w", ErrConfig, err)
	}
	if a.TokensFile != "" {
		if conf.Tokens, err = access.OpenTokens(a.TokensFile, time.Now, c.deps.Log); err != nil {
			return nil, fmt.Errorf("%w: access.tokens_file: %w", ErrConfig, err)
		}
	}
	if a.OIDC.Issuer != "" {
		if conf.OIDC, err = a.OIDC.open(c.deps.Log, true); err != nil {
			return nil, fmt.Errorf("%w: access.oidc: %w", ErrConfig, err)
		}
	}
	c.warnOpenAccess(conf.Open)
	return access.NewGuard(conf), nil
}

func (c *Collector) warnOpenAccess(open bool) {
	for _, addr := range []string{c.cfg.GRPCListen, c.cfg.HTTPListen, c.cfg.OpenCostListen} {
		host, _, err := net.SplitHostPort(addr)
		switch {
		case err != nil || isLoopback(host):
		case open:
			c.deps.Log.Warn("whoever reaches this address may read and change all of the ledger", "address", addr, "hint", "docs/access.md")
		case c.tls == nil:
			c.deps.Log.Warn("tokens travel in plain text to this address", "address", addr, "hint", "set tls.cert_file")
		}
	}
}

// onLoopback reports whether an address is this machine's alone.
func onLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopback(host)
}

// passage leads callers from HTTP to the service.
func passage(g *access.Guard) api.Options {
	p := g.NewPassage()
	return api.Options{Server: p.ServerOptions(), Dial: p.DialOptions()}
}

// whoAmI tells a caller whom he is taken for.
func whoAmI(ctx context.Context) (*pb.WhoAmIResponse, error) {
	c := access.CallerOf(ctx)
	if c == nil {
		return nil, access.ErrUnauthenticated
	}
	return c.Message(), nil
}

// listAudit answers what was changed.
func (c *Collector) listAudit(ctx context.Context, req *pb.AuditRequest) (*pb.AuditResponse, error) {
	entries, broken, err := c.audit.Entries(ctx, int(req.GetLimit()), req.GetBefore())
	if err != nil {
		return nil, err
	}
	out := &pb.AuditResponse{Broken: broken}
	for i := range entries {
		e := &entries[i]
		out.Entries = append(out.Entries, &pb.AuditEntry{
			Sequence: e.Sequence, TimeNs: e.Time.UnixNano(), Caller: e.Caller, Method: string(e.Method), Action: e.Action,
			OldRevision: e.Old, NewRevision: e.New, Sha256: e.SHA256, Detail: e.Detail, Outcome: e.Outcome, Digest: e.Digest,
		})
	}
	return out, nil
}

// verifyAudit checks that every record of the audit log follows from the one
// before. Law 4 is that what was acknowledged stays.
func (c *Collector) verifyAudit(ctx context.Context) error {
	_, err := c.audit.Verify(ctx)
	if tampered := (*access.Tampered)(nil); errors.As(err, &tampered) {
		return &attribution.Broken{Law: 4, Where: "audit log", Reason: tampered.What}
	}
	return err
}

// The actions of the audit log.
const (
	auditRateCard  = "apply rate card"
	auditRules     = "apply rules"
	auditRerate    = "rerate"
	auditUndo      = "undo rerating"
	auditRetention = "retention"
	auditBackup    = "backup"
)

// auditBackup records that somebody takes all of the ledger with him. What came
// of it is told to the function.
func (c *Collector) auditBackup(ctx context.Context) (func(error), error) {
	var done func(error)
	err := c.ingest.Do(ctx, func(ctx context.Context) (err error) {
		done, err = c.audit.Begin(ctx, access.Change{Action: auditBackup})
		return err
	})
	if err != nil {
		return nil, err
	}
	return func(result error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // who took it may be gone
		defer cancel()
		err := c.ingest.Do(ctx, func(context.Context) error {
			done(result)
			return nil
		})
		if err != nil {
			c.deps.Log.Error("what came of a backup could not be written down", "error", err)
		}
	}, nil
}

// recoverAudit finds out what came of changes that a collector died in. Where
// others may be making some just now, only old ones are looked at.
func (c *Collector) recoverAudit(ctx context.Context) error {
	older := time.Now()
	if _, shared := c.store.(store.Shared); shared {
		older = older.Add(-time.Hour)
	}
	return c.audit.Recover(ctx, older, func(ctx context.Context, e *access.Entry) (string, error) {
		kinds := map[string]store.DocumentKind{
			auditRateCard: store.RateCards, auditRules: store.RuleSets, auditRerate: store.Reratings, auditUndo: store.Reratings,
		}
		kind, ok := kinds[e.Action]
		switch {
		case e.Action == auditBackup: // this ledger may be made of it
			return access.Unknown, nil
		case !ok:
			return access.NotMade, nil
		}
		doc, err := c.store.Document(ctx, kind, e.New)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return access.NotMade, nil
		case err != nil:
			return "", err
		case e.SHA256 == "" || kind == store.Reratings || access.DocumentHash(doc.Body) == e.SHA256:
			return access.Done, nil
		}
		return access.NotMade, nil
	})
}

// auditRetentions records for how long what is kept, where that is new.
func (c *Collector) auditRetentions(ctx context.Context) error {
	r := &c.cfg.Retention
	now := fmt.Sprintf("seconds %s, minutes %s, hours %s, days %s", r.Seconds, r.Minutes, r.Hours, r.Days)
	last, err := c.audit.Latest(ctx, auditRetention)
	if err != nil || last != nil && last.Detail == now {
		return err
	}
	done, err := c.audit.Begin(access.WithCaller(ctx, access.Configuration()), access.Change{Action: auditRetention, Detail: now})
	if err == nil {
		done(nil)
	}
	return err
}

// refusals yields what was refused to callers.
type refusals struct{ guard *access.Guard }

// Describe describes nothing: the metrics are checked as they are collected.
func (refusals) Describe(chan<- *prometheus.Desc) {}

// Collect reads the counts.
func (r refusals) Collect(out chan<- prometheus.Metric) {
	n := r.guard.Refused()
	d := prometheus.NewDesc("gpuledger_collector_access_refused_total", "Questions refused, by why.", []string{"reason"}, nil)
	for _, x := range []struct {
		reason string
		count  int64
	}{
		{"unauthenticated", n.Unauthenticated.Load()},
		{"forbidden", n.Forbidden.Load()},
		{"too_many_failures", n.TooMany.Load()},
		{"too_many_arriving", n.Arriving.Load()},
		{"foreign_page", n.Foreign.Load()},
	} {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(x.count), x.reason)
	}
}

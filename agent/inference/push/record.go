package push

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/attribution"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"

	"github.com/gpuledger/gpuledger/internal/serving"
)

// Bounds of a request.
const (
	maxServed    = 64
	maxName      = 253
	maxClient    = 64
	maxReason    = 63
	maxReasons   = 32 // of one Served
	maxLatencies = 4096
	maxCount     = 1 << 42 // events or tokens of one value
)

// entryOf checks a request, and makes an entry of it.
func (s *Server) entryOf(q *pb.RecordRequest) (*entry, error) {
	switch {
	case q.GetClient() == "" || len(q.GetClient()) > maxClient || !utf8.ValidString(q.GetClient()):
		return nil, fmt.Errorf("client %.80q: want a name of 1 to %d bytes", q.GetClient(), maxClient)
	case q.GetSequence() == 0:
		return nil, fmt.Errorf("sequence 0: they count from 1")
	case len(q.GetServed()) > maxServed:
		return nil, fmt.Errorf("%d served: want at most %d", len(q.GetServed()), maxServed)
	}
	e := &entry{sequence: q.GetSequence()}
	sums := sums{}
	for i, x := range q.GetServed() {
		if err := s.served(x, sums); err != nil {
			return nil, fmt.Errorf("served %d: %w", i+1, err)
		}
	}
	if e.values = sums.values(); len(e.values) > inference.MaxValues {
		return nil, fmt.Errorf("%d values (pairs of subject and measure; each bucket of latencies is one): want at most %d", len(e.values), inference.MaxValues)
	}
	return e, nil
}

func (s *Server) served(x *pb.Served, to sums) error {
	subject := serving.Subject{Model: x.GetModel(), Tenant: x.GetTenant(), Tier: x.GetTier()}
	if !goodName(subject.Model) || !goodName(subject.Tenant) || !goodName(subject.Tier) {
		return fmt.Errorf("model, tenant and tier: want at most %d bytes of printable text each", maxName)
	}
	if len(x.GetFailures()) > maxReasons || len(x.GetLatencyNs()) > maxLatencies || len(x.GetFirstTokenNs()) > maxLatencies {
		return fmt.Errorf("want at most %d reasons, and %d latencies of each kind", maxReasons, maxLatencies)
	}
	for _, v := range []struct {
		of      attribution.Measure
		n       *uint64
		unitary int64
	}{
		{attribution.Success, x.Successes, int64(attribution.One)}, //nolint:protogetter // set or not is the question
		{attribution.Checkpoint, x.Checkpoints, int64(attribution.One)},
		{attribution.TokensInput, x.InputTokens, 1},
		{attribution.TokensCached, x.CachedTokens, 1},
		{attribution.TokensOutput, x.OutputTokens, 1},
		{attribution.TokensAborted, x.AbortedTokens, 1},
	} {
		if v.n == nil {
			continue
		}
		if err := to.count(subject, v.of, *v.n, v.unitary); err != nil {
			return err
		}
	}
	for reason, n := range x.GetFailures() {
		if err := to.count(subject, attribution.FailurePrefix+attribution.Measure(goodReason(reason)), n, int64(attribution.One)); err != nil {
			return err
		}
	}
	for prefix, all := range map[attribution.Measure][]uint64{attribution.LatencyPrefix: x.GetLatencyNs(), attribution.FirstTokenPrefix: x.GetFirstTokenNs()} {
		for _, ns := range all {
			bucket := s.hist.Bucket(int64(min(ns, 1<<62)))
			if err := to.count(subject, attribution.BucketMeasure(prefix, bucket), 1, int64(attribution.One)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sums add up what one request says.
type sums map[serving.Subject]map[attribution.Measure]int64

func (s sums) count(of serving.Subject, m attribution.Measure, n uint64, unit int64) error {
	if n > maxCount {
		return fmt.Errorf("%d of %s: want at most %d", n, m, int64(maxCount))
	}
	if s[of] == nil {
		s[of] = map[attribution.Measure]int64{}
	}
	sum := s[of][m] + int64(n)*unit
	if sum > attribution.MaxPerSecond {
		return fmt.Errorf("more of %s than a second takes", m)
	}
	s[of][m] = sum
	return nil
}

func (s sums) values() (vs []serving.Value) {
	for subject, measures := range s {
		for m, v := range measures {
			vs = append(vs, serving.Value{Subject: subject, Measure: m, Value: v})
		}
	}
	return vs
}

func goodName(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// goodReason is a reason as it goes into a measure's name.
func goodReason(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, s[:min(len(s), maxReason)])
	if s == "" {
		return "other"
	}
	return s
}

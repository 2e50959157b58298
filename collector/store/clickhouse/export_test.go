package clickhouse

import "github.com/gpuledger/gpuledger/attribution"

// SetLimits makes the times of writes short. With keepClaims, claims are old after
// so many seconds.
func (s *Store) SetLimits(logTime, lifetime, skew, keepClaims attribution.Second) {
	s.limits = limits{logTime: logTime, lifetime: lifetime, skew: skew, keepClaims: keepClaims, claimsStep: 1}
}

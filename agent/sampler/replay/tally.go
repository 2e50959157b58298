package replay

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// place is where a measure stands in a tally line. The places are also the
// order of a tally's values.
type place uint8

const (
	nowhere place = iota
	success
	failures
	tokens
	latency
	queue
	firstToken
	running
	kvCache
	observed
	checkpoint
)

// tokenKeys are the keys of a tally's tokens, in their order.
var tokenKeys = keys{"input", "cached", "output", "aborted"}

const tokensPrefix = "tokens/"

// measureOf is a measure's place and the most that a tally may count of it.
func measureOf(m attribution.Measure) (place, int64) {
	for p, x := range placeMeasures {
		if x != "" && x == m {
			return place(p), maxValue
		}
	}
	if tokenIndex(m) >= 0 {
		return tokens, maxTokens
	}
	switch {
	case len(m) > len(attribution.FailurePrefix) && strings.HasPrefix(string(m), string(attribution.FailurePrefix)):
		return failures, maxValue
	case bucketOf(m, latency) >= 0:
		return latency, maxValue
	case bucketOf(m, firstToken) >= 0:
		return firstToken, maxValue
	}
	return nowhere, math.MaxInt64
}

// bucketOf is the bucket of a measure of one of the two histograms, −1 for any
// other.
func bucketOf(m attribution.Measure, histogram place) int {
	if i, ok := attribution.BucketOf(m, attribution.Measure(placePrefixes[histogram])); ok {
		return i
	}
	return -1
}

// compareMeasures is the order of a tally's values.
func compareMeasures(a, b attribution.Measure) int {
	pa, _ := measureOf(a)
	pb, _ := measureOf(b)
	if pa != pb {
		return cmp.Compare(pa, pb)
	}
	switch pa {
	case tokens:
		return cmp.Compare(tokenIndex(a), tokenIndex(b))
	case latency, firstToken:
		return cmp.Compare(bucketOf(a, pa), bucketOf(b, pa))
	case nowhere, success, failures, queue, running, kvCache, observed, checkpoint:
	}
	return cmp.Compare(a, b)
}

// tokenIndex is the place of a measure of tokens among them, −1 for any other.
func tokenIndex(m attribution.Measure) int {
	key, ok := strings.CutPrefix(string(m), tokensPrefix)
	if !ok {
		return -1
	}
	return slices.Index(tokenKeys, key)
}

// placeKeys are the places' keys in a line, placeMeasures the measures of those
// that hold one, placePrefixes what the others leave out of those below them.
var (
	placeKeys = [...]string{
		success: "success", failures: "failures", tokens: "tokens", latency: "latency", queue: "queue",
		firstToken: "first_token", running: "running", kvCache: "kv_cache", observed: "observed", checkpoint: "checkpoint",
	}
	placeMeasures = [...]attribution.Measure{
		success: attribution.Success, queue: attribution.Queue, running: attribution.Running,
		kvCache: attribution.KVCache, observed: attribution.Observed, checkpoint: attribution.Checkpoint,
	}
	placePrefixes = [...]string{
		failures: string(attribution.FailurePrefix), tokens: tokensPrefix,
		latency: string(attribution.LatencyPrefix), firstToken: string(attribution.FirstTokenPrefix),
	}
)

func isObject(p place) bool { return p == failures || p == tokens || p == latency || p == firstToken }

package replay

import (
	"cmp"
	"math"
	"strconv"
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
)

// tokenKeys are the keys of a tally's tokens, in their order.
var tokenKeys = keys{"input", "cached", "output"}

const tokensPrefix = "tokens/"

// measureOf is a measure's place and the most that a tally may count of it.
func measureOf(m attribution.Measure) (place, int64) {
	switch {
	case m == attribution.Success:
		return success, maxValue
	case m == attribution.Queue:
		return queue, maxValue
	case m == attribution.TokensInput || m == attribution.TokensCached || m == attribution.TokensOutput:
		return tokens, maxTokens
	case len(m) > len(attribution.FailurePrefix) && strings.HasPrefix(string(m), string(attribution.FailurePrefix)):
		return failures, maxValue
	case bucketOf(m) >= 0:
		return latency, maxValue
	}
	return nowhere, math.MaxInt64
}

// bucketOf is the index of a latency measure, −1 for any other.
func bucketOf(m attribution.Measure) int {
	digits, ok := strings.CutPrefix(string(m), string(attribution.LatencyPrefix))
	if !ok {
		return -1
	}
	i, err := strconv.Atoi(digits)
	if err != nil || i < 0 || i >= latencies || strconv.Itoa(i) != digits {
		return -1
	}
	return i
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
	case latency:
		return cmp.Compare(bucketOf(a), bucketOf(b))
	case nowhere, success, failures, queue:
	}
	return cmp.Compare(a, b)
}

func tokenIndex(m attribution.Measure) int {
	for i, k := range tokenKeys {
		if string(m[len(tokensPrefix):]) == k {
			return i
		}
	}
	return -1
}

// placeKeys are the places' keys in a line, placePrefixes what they leave out
// of the measures below them.
var (
	placeKeys     = [...]string{success: "success", failures: "failures", tokens: "tokens", latency: "latency", queue: "queue"}
	placePrefixes = [...]string{failures: string(attribution.FailurePrefix), tokens: tokensPrefix, latency: string(attribution.LatencyPrefix)}
)

func isObject(p place) bool { return p == failures || p == tokens || p == latency }

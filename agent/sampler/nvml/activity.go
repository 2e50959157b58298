package nvml

import (
	"errors"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// source is what a device's SM activity is measured by. The best one that
// answers is taken, at each reading.
type source uint8

const (
	sourceNone    source = iota
	sourceGPM            // the driver's GPU performance monitoring
	sourceDCGM           // Options.Activity
	sourceSamples        // the driver's samples of GPU utilization
	sourceRate           // its last utilization rate
)

var sourceNames = [...]string{"", "gpm", "dcgm", "samples", "rate"}

func (s source) String() string { return sourceNames[s] }

// maxActivityAge bounds how old a share from Options.Activity may be. A
// dcgm-exporter reads every 30 s unless told otherwise.
const maxActivityAge = int64(60 * time.Second)

// activity adds the device's SM activity since the last reading that had any.
// The first only starts the count.
func (r *reader) activity(share int64, by source, err error, now int64) error {
	first := r.lastShare == 0
	if err != nil && (!first || !errors.Is(err, errNoData)) {
		return err
	}
	if !first {
		r.sample.SMActive += apportion.MulDiv(min(now-r.lastShare, maxElapsed), min(max(share, 0), 1e6), 1e6)
	}
	r.lastShare = now
	r.measuredBy(by, now)
	return nil
}

// share is the device's share of SM time in use since the last reading, in
// millionths.
func (r *reader) share() (int64, source, error) {
	var gpm error
	if r.byGPM {
		var share int64
		if share, gpm = r.handle.smShare(); gpm == nil {
			r.gpmFailures = 0
			return share, sourceGPM, nil
		}
		if r.gpmFailures++; !r.byOthers(gpm) {
			return 0, sourceGPM, gpm
		}
		r.byGPM = !errors.Is(gpm, errNotSupported)
	}
	if share, ok := r.foreign(); ok {
		return share, sourceDCGM, nil
	}
	share, by, err := r.utilization()
	if gpm != nil && errors.Is(err, errNotSupported) {
		return 0, sourceGPM, gpm
	}
	return share, by, err
}

// byOthers reports whether something else may measure what GPM does not: where
// it can't, or goes on failing while the GPU itself is there.
func (r *reader) byOthers(gpm error) bool {
	switch {
	case errors.Is(gpm, errNotSupported):
		return true
	case errors.Is(gpm, errGone), errors.Is(gpm, errLost), errors.Is(gpm, ErrDriverReplaced):
		return false
	}
	return r.gpmFailures >= gapAfter
}

// foreign is the share that Options.Activity knows, if it is recent.
func (r *reader) foreign() (int64, bool) {
	if r.opts.Activity == nil {
		return 0, false
	}
	gpu, instance := r.uuid, -1
	if r.parent != "" {
		gpu, instance = r.parent, r.gpuInstance
		if instance < 0 {
			return 0, false // the whole GPU's is not the instance's
		}
	}
	share, at, ok := r.opts.Activity.SMShare(gpu, instance)
	return share, ok && int64(r.wall())*1000-at <= maxActivityAge
}

// utilization is the mean of the driver's samples since the last reading, else
// its last rate.
func (r *reader) utilization() (int64, source, error) {
	now := r.wall()
	if r.busyCursor > now+farFuture {
		r.busyCursor = now // the wall clock was set back
	}
	by := sourceSamples
	var err error
	r.busy, err = r.handle.busySamples(r.busy[:0], r.busyCursor)
	if errors.Is(err, errNotSupported) {
		by = sourceRate
	}
	newest := r.busyCursor
	var sum, n int64
	for _, s := range r.busy {
		if s.time <= r.busyCursor || s.time > now+farFuture {
			continue
		}
		newest = max(newest, s.time)
		if s.percent <= 100 {
			sum += int64(s.percent)
			n++
		}
	}
	r.busyCursor = newest
	if err == nil && n > 0 {
		return sum * 1e4 / n, by, nil
	}
	percent, err := r.handle.busyShare()
	if errors.Is(err, errNotSupported) {
		return 0, sourceNone, fmt.Errorf("neither GPM, nor DCGM, nor utilization: %w", err)
	}
	return int64(min(percent, 100)) * 1e4, by, err
}

// measuredBy says what measures the device's activity, when that is new.
func (r *reader) measuredBy(by source, now int64) {
	r.stats.source.Store(uint32(by))
	if by == r.saidSource || !r.sources.may(now) {
		return
	}
	r.log.Info("SM activity is measured", "device", r.uuid, "by", by.String(), "before", r.saidSource.String())
	r.saidSource = by
}

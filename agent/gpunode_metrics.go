package agent

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gpuledger/gpuledger/agent/sampler/dcgm"
	"github.com/gpuledger/gpuledger/agent/sampler/nvml"
	"github.com/gpuledger/gpuledger/agent/workload/kubelet"
	"github.com/gpuledger/gpuledger/agent/workload/podwatch"
	"github.com/gpuledger/gpuledger/agent/workload/process"
	"github.com/gpuledger/gpuledger/agent/workload/slurm"
)

// collect implements observed: every bound and every drop of what sees the
// node.
func (n *gpuNode) collect(c *nodeCollector) {
	c.driver(n.driver.Stats())
	c.processes(n.processes.Stats())
	if n.kubelet != nil {
		c.kubelet(n.kubelet.Stats())
		c.pods(n.watcher.Stats(), n.slices.Stats())
		c.gauge("pods", "Pods that are known, those that are gone included.", float64(n.pods.View().Len()))
		c.count("pods_refused_total", "Pods beyond the number that can be known.", n.pods.Refused())
	}
	if n.serving != nil {
		s := n.serving.Stats()
		c.inference(&s)
	}
	if n.pushed != nil {
		s := n.pushed.Stats()
		c.pushed(&s)
	}
	if n.slurm != nil {
		c.slurm(n.slurm.Stats())
	}
	if n.dcgm != nil {
		c.dcgm(n.dcgm.Stats(), n.dcgm.Readings(nil))
	}
}

func (c *nodeCollector) driver(s nvml.Stats) {
	c.count("nvml_rescans_total", "Looks for devices.", s.Rescans)
	c.count("nvml_reloads_total", "Times that the driver was opened again.", s.Reloads)
	for i := range s.Devices {
		d := &s.Devices[i]
		c.count("device_failed_readings_total", "Readings of a device that failed.", d.FailedReadings, "gpu", d.ID)
		c.gauge("device_failing", "1 while a device can't be read: its time is unobserved.", one(d.Failing), "gpu", d.ID)
		c.gauge("device_hung", "1 while a call for a device hangs.", one(d.Hung), "gpu", d.ID)
		c.gauge("device_activity_source", "1 for what measures a device's SM activity.", 1, "gpu", d.ID, "source", d.Activity)
		c.send(prometheus.CounterValue, "device_energy_joules_total",
			"Energy of a device since it was found; of the rest of a GPU in MIG mode, the whole GPU's.", float64(d.EnergyMicroJoules)/1e6, "gpu", d.ID)
	}
	for _, e := range s.Errors {
		c.count("device_xid_errors_total", "Errors that a device reported, by XID; cause is what they are put down to.", e.Count,
			"gpu", e.Device, "xid", xidText(e.XID), "cause", cause(e.Application))
	}
	c.count("device_xid_errors_uncounted_total", "Errors beyond the devices and XIDs that are counted apart.", s.OtherErrors)
	const help = "What the driver said of processes that was not believed, or had no room, by reason."
	for reason, v := range map[string]uint64{
		"percent": s.Dropped.Percent, "stale": s.Dropped.Stale, "future": s.Dropped.Future,
		"unlisted": s.Dropped.Unlisted, "limit": s.Dropped.Processes,
	} {
		c.count("nvml_dropped_total", help, v, "reason", reason)
	}
}

func (c *nodeCollector) processes(s process.Stats) {
	c.gauge("processes", "Processes that are known.", float64(s.Processes))
	c.gauge("process_files", "Files of processes that are kept open.", float64(s.Files))
	c.count("process_files_not_kept_total", "Files of processes beyond the limit, opened for each reading.", s.Unkept)
	const help = "Answers that nobody is known to answer for a process, by reason: its use is unattributed."
	for reason, v := range map[string]uint64{
		"limit": s.Refused, "unreadable": s.Unreadable, "pod": s.UnknownPod, "container": s.UnknownContainer, "untrusted": s.Untrusted,
	} {
		c.count("process_unknown_total", help, v, "reason", reason)
	}
}

func (c *nodeCollector) kubelet(s kubelet.Stats) {
	c.count("kubelet_lists_total", "Lists of who holds what that the kubelet answered.", s.Lists)
	for kind, v := range s.Errors {
		c.count("kubelet_errors_total", "Calls of the kubelet that failed, by kind.", v, "kind", kind)
	}
	c.count("kubelet_epochs_total", "Kubelets seen: it grows when the kubelet is restarted.", s.Epochs)
	c.count("kubelet_dropped_total", "What was beyond the bounds of a list.", s.Dropped)
	c.count("kubelet_checkpoint_errors_total", "Device manager's checkpoints that could not be read.", s.CheckpointErrors)
	c.count("kubelet_living_errors_total", "Times that the pods with processes could not be told.", s.LivingErrors)
	c.count("kubelet_expired_holdings_total", "Holdings ended because nobody could confirm them for long.", s.Expired)
	c.gauge("kubelet_last_list_timestamp_seconds", "Unix time of the kubelet's last answer; 0 for none.", float64(s.LastList/int64(time.Second)))
	const help = "Holdings, by state: confirmed, waiting for their pod to be known, or unconfirmed since a restart."
	c.gauge("holdings", help, float64(s.Holdings-s.Waiting-s.Unconfirmed), "state", "confirmed")
	c.gauge("holdings", help, float64(s.Waiting), "state", "waiting")
	c.gauge("holdings", help, float64(s.Unconfirmed), "state", "unconfirmed")
	c.gauge("holdings_unresolved", "Names of GPUs that fit no device of the driver's.", float64(s.Unresolved))
}

func (c *nodeCollector) pods(s podwatch.Stats, slices podwatch.SlicesStats) {
	c.gauge("pods_source", "1 for the source of pods that leads.", one(s.Source != ""), "source", s.Source)
	c.count("pods_sessions_total", "Attempts at a source of pods.", s.Sessions)
	c.count("pods_failures_total", "Of them, those that ended by themselves.", s.Failures)
	c.count("pods_syncs_total", "Times that a source told all pods.", s.Syncs)
	c.count("pods_events_total", "What sources told.", s.Events)
	c.count("pods_switches_total", "Times that another source took the lead.", s.Switches)
	c.count("pods_dropped_total", "Pods, and facts of pods, that were unfit or beyond a bound.", s.Dropped)
	c.gauge("resource_slice_devices", "Devices known from ResourceSlices.", float64(slices.Devices))
	c.count("resource_slice_failures_total", "Watches of ResourceSlices that failed.", slices.Failures)
	c.count("resource_slice_dropped_total", "Slices and devices that were unfit or beyond a bound.", slices.Dropped)
}

func (c *nodeCollector) slurm(s slurm.Stats) {
	c.gauge("slurm_jobs", "Jobs that hold a device.", float64(s.Jobs))
	c.gauge("slurm_holdings", "Holdings of jobs.", float64(s.Holdings))
	c.gauge("slurm_unresolved", "Job files that name no device.", float64(s.Unresolved))
	c.count("slurm_unreadable_total", "Readings of job files that failed.", s.Unreadable)
	c.count("slurm_bad_lines_total", "Lines that were no job's id, at each reading.", s.BadLines)
	c.count("slurm_refused_total", "Holdings beyond the limit, at each reading.", s.Refused)
}

func (c *nodeCollector) dcgm(s dcgm.Stats, readings []dcgm.Reading) {
	c.gauge("dcgm_up", "1 while DCGM can be read.", one(s.Up), "mode", string(s.Mode))
	for _, r := range readings {
		c.gauge("dcgm_ratio", "What DCGM has measured last, by field; gpu_instance and compute_instance are empty for the whole.", float64(r.Share)/1e6,
			"gpu", r.GPU, "gpu_instance", instance(r.GPUInstance), "compute_instance", instance(r.ComputeInstance), "field", r.Field.String())
	}
	c.gauge("dcgm_known", "GPUs and GPU instances whose SM activity is known.", float64(s.Known))
	c.count("dcgm_reads_total", "Readings of DCGM.", s.Reads)
	c.count("dcgm_failures_total", "Of them, those that failed.", s.Failures)
	c.count("dcgm_sessions_total", "Connections to a host engine.", s.Sessions)
	c.gauge("dcgm_hung", "1 while a call into DCGM hangs.", one(s.Hung))
	c.count("dcgm_hangs_total", "Calls into DCGM that have hung.", s.Hangs)
	for reason, v := range map[string]uint64{
		"blank": s.Drops.Blank, "value": s.Drops.Value, "time": s.Drops.Time,
		"malformed": s.Drops.Malformed, "limit": s.Drops.Excess, "contradicting": s.Drops.Contradicting,
	} {
		c.count("dcgm_dropped_total", "What DCGM said that was not believed, by reason.", v, "reason", reason)
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// instance is the number of a MIG instance, "" for none.
func instance(n int) string {
	if n < 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func xidText(xid uint64) string { return strconv.FormatUint(xid, 10) }

func cause(application bool) string {
	if application {
		return "application"
	}
	return "hardware"
}

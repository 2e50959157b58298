package sampler

import "github.com/gpuledger/gpuledger/attribution"

// SlurmJob is the ControllerKind of an owner that is a Slurm job.
const SlurmJob = "SlurmJob"

// JobOwner is the owner that a Slurm job is on a node: all of the job's
// processes there, and its holdings. It has no PID and no command, so that
// these are one owner.
func JobOwner(cluster, node, job string) *attribution.Owner {
	return &attribution.Owner{
		Kind: attribution.HostProcess, Cluster: cluster, Node: node,
		ControllerKind: SlurmJob, Controller: job,
	}
}

// IsJob reports whether an owner is a Slurm job.
func IsJob(o *attribution.Owner) bool {
	return o.Kind == attribution.HostProcess && o.ControllerKind == SlurmJob
}

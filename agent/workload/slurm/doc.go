// Package slurm sees which Slurm jobs hold which GPUs, in a directory that the
// cluster's prolog and epilog scripts keep: the one that dcgm-exporter takes
// with --hpc-job-mapping-dir.
//
// # The files
//
// A file's name is a GPU, its lines are the ids of the jobs that have it:
//
//	N          the GPU of index N in the driver's list; of minor number N
//	           where no index is known
//	N.G        GPU instance G of that GPU (MIG)
//	nvidiaN    the GPU of minor number N
//	GPU-…      the GPU of that UUID
//	MIG-…      the MIG instance of that UUID
//
// The first two are dcgm-exporter's, the last two what others' scripts write,
// often beside the first for the same GPU: a job holds a device once. Of a line
// the first word is the job; scripts add the user's id. A GPU that is cut into
// MIG instances is held with all that was cut from it, its rest included.
// Other names are not job files.
//
// # Holdings
//
// Each job holds its devices with one replica, as of the second in which it
// appears, until that in which it is gone. What can't be read is unknown and
// changes nothing: a file, for the devices that it names; the directory, for
// all. A directory that is not there has no jobs: scripts make it before the
// first. A file that is empty may be about to be written, so that only one that
// is empty twice in a row ends holdings.
//
// A device's holdings end with it, so those of one that was removed and added
// again are stated again; a name that fits no device waits for one.
//
// The directory is read whole each second rather than by modification times,
// which two changes of one file can share.
package slurm

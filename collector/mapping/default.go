package mapping

// The workload classes that Default knows.
const (
	Interactive     = "interactive"
	Training        = "training"
	Experimentation = "experimentation"
)

// trainers are the kinds of controller whose pods train, or at least come to
// an end.
var trainers = [...]string{"Job", "JobSet", "TrainJob", "PyTorchJob", "TFJob", "MPIJob", "JAXJob", "PaddleJob", "XGBoostJob"}

// Default is what holds until rules are applied. It takes labels that say just
// what is asked, the most particular first, and guesses nothing:
//
//   - a team from team or owner, else from the queue that admitted the pod;
//   - a budget owner from gpuledger.io/budget-owner, department or cost-center;
//   - an environment from env or environment;
//   - a model from model or KServe's inferenceservice. Other labels of serving
//     tools name a release or a group of pods, which is no model;
//   - a class from the label gpuledger.io/class, else from service.criticality
//     where it leaves no doubt (critical is interactive, low is
//     experimentation; high and medium are not told apart by it), else from
//     kinds of controllers that serve one purpose;
//   - a tier from gpuledger.io/tier or tier;
//   - a run from the labels that a training operator puts on all pods of a job,
//     whichever restart or role they belong to, so before those of the Jobs
//     that it made: an MPIJob's launcher is a Job of its own. Ray's labels name
//     a cluster, which may as well serve, and is another one after a retry.
func Default() *Rules {
	var rs []Rule
	for _, t := range []struct {
		target string
		labels []string
	}{
		{Team, []string{"team", "owner", "kueue.x-k8s.io/queue-name", "volcano.sh/queue-name", "kai.scheduler/queue", "runai/queue"}},
		{BudgetOwner, []string{"gpuledger.io/budget-owner", "department", "cost-center"}},
		{Environment, []string{"env", "environment"}},
		{Model, []string{"model", "serving.kserve.io/inferenceservice"}},
		{Class, []string{"gpuledger.io/class"}},
		{Tier, []string{"gpuledger.io/tier", "tier"}},
		{Run, []string{
			"jobset.sigs.k8s.io/jobset-uid", "jobset.sigs.k8s.io/jobset-name", "training.kubeflow.org/job-name", "volcano.sh/job-name",
			"batch.kubernetes.io/controller-uid", "controller-uid",
		}},
	} {
		for _, l := range t.labels {
			rs = append(rs, Rule{Target: t.target, FromLabel: l})
		}
	}
	rs = append(rs,
		Rule{Target: Class, Labels: map[string]string{"service.criticality": "critical"}, Value: Interactive},
		Rule{Target: Class, Labels: map[string]string{"service.criticality": "low"}, Value: Experimentation},
	)
	for _, kind := range trainers {
		rs = append(rs, Rule{Target: Class, Controller: kind + "/*", Value: Training})
	}
	rs = append(rs,
		Rule{Target: Class, Controller: "InferenceService/*", Value: Interactive},
		Rule{Target: Class, Controller: "LLMInferenceService/*", Value: Interactive},
		Rule{Target: Class, Controller: "Notebook/*", Value: Experimentation},
	)
	for _, kind := range append(trainers[:], "SlurmJob") {
		rs = append(rs, Rule{Target: Run, Controller: kind + "/*", FromController: true})
	}
	return &Rules{Rules: rs}
}

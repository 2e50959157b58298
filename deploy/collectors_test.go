package deploy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/collector"
)

const collectorsFile = "examples/collectors/collectors.yaml"

// severalCollectors is what the example of several collectors has.
type severalCollectors struct {
	set      appsv1.StatefulSet
	services map[string]corev1.Service
	budget   policyv1.PodDisruptionBudget
}

func exampleOfSeveral(t *testing.T) *severalCollectors {
	t.Helper()
	x := &severalCollectors{services: map[string]corev1.Service{}}
	for _, text := range documents(t, collectorsFile) {
		var head struct{ APIVersion, Kind string }
		if err := json.Unmarshal(text, &head); err != nil {
			t.Fatal(err)
		}
		var service corev1.Service
		var into any
		switch head.Kind {
		case "Service":
			into = &service
		case "StatefulSet":
			into = &x.set
		case "PodDisruptionBudget":
			into = &x.budget
		default:
			t.Fatalf("nothing is known of %s/%s", head.APIVersion, head.Kind)
		}
		if err := strictly(text, into); err != nil {
			t.Fatalf("%s: %v", head.Kind, err)
		}
		if head.Kind == "Service" {
			x.services[service.Name] = service
		}
	}
	return x
}

// commented are the settings in a file's comments, those that are indented:
// blocks, in order.
func commented(t *testing.T, file string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := false
	for line := range strings.Lines(string(text)) {
		setting, indented := strings.CutPrefix(line, "#   ")
		switch {
		case indented && before:
			blocks[len(blocks)-1] += setting
		case indented:
			blocks = append(blocks, setting)
		}
		before = indented
	}
	return blocks
}

// The settings that the example adds are valid with those that they are added to,
// and name the pods and Services of the example.
func TestSettingsOfSeveralCollectors(t *testing.T) {
	x, blocks := exampleOfSeveral(t), commented(t, collectorsFile)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of settings: %q", len(blocks), blocks)
	}
	settings, err := os.ReadFile("collector/settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := collector.ParseConfig("settings.yaml", append(settings, blocks[0]...))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	service := x.services[x.set.Spec.ServiceName]
	if c.Store != "clickhouse" || !slices.Equal(c.Peers.Addresses, []string{service.Name + ":9440"}) {
		t.Errorf("store %s, peers %v", c.Store, c.Peers.Addresses)
	}
	if service.Spec.ClusterIP != corev1.ClusterIPNone || !service.Spec.PublishNotReadyAddresses || service.Spec.Ports[0].Port != 9440 {
		t.Errorf("the collectors' own Service is not headless, or names no pod that starts: %+v", service.Spec)
	}

	a, err := agent.ParseConfig("agent.yaml", []byte(blocks[1]))
	if err != nil {
		t.Fatal(err)
	}
	var pods []string
	for i := range *x.set.Spec.Replicas {
		pods = append(pods, fmt.Sprintf("%s-%d.%s:9440", x.set.Name, i, service.Name))
	}
	if !slices.Equal(a.Collector.Addresses, pods) {
		t.Errorf("agents stream to %v: the pods are %v", a.Collector.Addresses, pods)
	}
	// In place of the address there.
	whole := agentSettings(t)
	whole.Collector.Address, whole.Collector.Addresses = a.Collector.Address, a.Collector.Addresses
	if err := whole.Validate(); err != nil {
		t.Error(err)
	}
}

// Each of several collectors is what one alone is, but for where the ledger is.
func TestSeveralCollectorsAreAsOne(t *testing.T) {
	x, one := exampleOfSeveral(t), collectorPod(t)
	pod := x.set.Spec.Template.Spec
	confined(t, pod.Containers[0].SecurityContext)
	// There is no volume whose files would have to be given to the group.
	one.SecurityContext.FSGroupChangePolicy, pod.SecurityContext.FSGroupChangePolicy = nil, nil
	for what, pair := range map[string][2]any{
		"the pod's security": {pod.SecurityContext, one.SecurityContext},
		"the image":          {pod.Containers[0].Image, one.Containers[0].Image},
		"the arguments":      {pod.Containers[0].Args, one.Containers[0].Args},
		"the ports":          {pod.Containers[0].Ports, one.Containers[0].Ports},
		"the account":        {pod.ServiceAccountName, one.ServiceAccountName},
		"its token":          {pod.AutomountServiceAccountToken, one.AutomountServiceAccountToken},
		"what is mounted":    {mounts(pod), mounts(one)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %+v: of one it is %+v", what, pair[0], pair[1])
		}
	}
	selector := x.set.Spec.Selector.MatchLabels
	if !reflect.DeepEqual(x.set.Spec.Template.Labels, selector) || !reflect.DeepEqual(x.budget.Spec.Selector.MatchLabels, selector) ||
		x.budget.Spec.MaxUnavailable.IntValue() >= int(*x.set.Spec.Replicas) {
		t.Errorf("the set, its pods and its budget do not fit: %v, %+v", selector, x.budget.Spec)
	}
	for name, s := range x.services {
		if !reflect.DeepEqual(s.Spec.Selector, selector) {
			t.Errorf("%s selects %v", name, s.Spec.Selector)
		}
	}
}

// mounts are a collector's, the ledger's folder aside, each with whether it is
// read only.
func mounts(pod corev1.PodSpec) []string {
	var out []string
	for _, m := range pod.Containers[0].VolumeMounts {
		if m.ReadOnly {
			out = append(out, cmp.Or(m.SubPath, m.Name)+" at "+m.MountPath)
		}
	}
	slices.Sort(out)
	return out
}

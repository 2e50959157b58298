package deploy_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// confined holds a container to what both have in common.
func confined(t *testing.T, c *corev1.SecurityContext) {
	t.Helper()
	if *c.Privileged || *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || len(c.Capabilities.Add) > 0 ||
		!reflect.DeepEqual(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container may do too much: %+v", c)
	}
}

func collectorPod(t *testing.T) corev1.PodSpec {
	t.Helper()
	for _, text := range documents(t, "collector/collector.yaml") {
		var set appsv1.StatefulSet
		if strictly(text, &set) == nil && set.Kind == "StatefulSet" {
			return set.Spec.Template.Spec
		}
	}
	t.Fatal("no StatefulSet")
	return corev1.PodSpec{}
}

func agentPod(t *testing.T) corev1.PodSpec {
	t.Helper()
	var set appsv1.DaemonSet
	if err := strictly(documents(t, "agent/daemonset.yaml")[0], &set); err != nil {
		t.Fatal(err)
	}
	return set.Spec.Template.Spec
}

// TestTheCollectorIsNobody: no root, no capability, nothing of the host.
func TestTheCollectorIsNobody(t *testing.T) {
	pod := collectorPod(t)
	confined(t, pod.Containers[0].SecurityContext)
	p := pod.SecurityContext
	if pod.HostPID || pod.HostNetwork || pod.HostIPC || !*p.RunAsNonRoot || *p.RunAsUser == 0 || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
		*pod.AutomountServiceAccountToken {
		t.Errorf("%+v", pod)
	}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			t.Errorf("it has %s of the host", v.HostPath.Path)
		}
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		if !m.ReadOnly && m.Name != "data" {
			t.Errorf("it may write to %s", m.MountPath)
		}
	}
	if agentPod(t).Containers[0].SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("the agent's system calls are not filtered")
	}
}

// TestTheCollectorsOneRight is to ask about tokens.
func TestTheCollectorsOneRight(t *testing.T) {
	var role rbacv1.ClusterRole
	if err := strictly(documents(t, "collector/rbac.yaml")[0], &role); err != nil {
		t.Fatal(err)
	}
	want := []rbacv1.PolicyRule{{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}}}
	if !reflect.DeepEqual(role.Rules, want) {
		t.Errorf("%+v", role.Rules)
	}
}

// TestTokensFit: the agent's token is for whom the collector expects, is where
// the agent looks for it, and ends soon.
func TestTokensFit(t *testing.T) {
	pod := agentPod(t)
	dir := ""
	for _, m := range pod.Containers[0].VolumeMounts {
		if m.Name == "token" {
			dir = m.MountPath
		}
	}
	var token *corev1.ServiceAccountTokenProjection
	for _, v := range pod.Volumes {
		if v.Name == "token" {
			token = v.Projected.Sources[0].ServiceAccountToken
		}
	}
	settings, err := os.ReadFile("agent/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if token == nil || *token.ExpirationSeconds > 3600 || !strings.Contains(string(settings), "token_file: "+dir+"/"+token.Path+"\n") {
		t.Fatalf("%+v in %q", token, dir)
	}
	c := collectorSettings(t)
	k := c.IngestAccess.Kubernetes
	if k.Audience != token.Audience || !reflect.DeepEqual(k.ServiceAccounts, []string{"gpuledger/" + pod.ServiceAccountName}) {
		t.Errorf("%+v", k)
	}
	if c.IngestAccess.Cluster != agentSettings(t).Cluster {
		t.Error("agents and collector call the cluster differently")
	}
}

// TestPoliciesSelectThePods: a policy that selects nothing keeps nobody out.
func TestPoliciesSelectThePods(t *testing.T) {
	for file, pod := range map[string]string{"agent/networkpolicy.yaml": "gpuledger-agent", "collector/networkpolicy.yaml": "gpuledger-collector"} {
		var p networkingv1.NetworkPolicy
		if err := strictly(documents(t, file)[0], &p); err != nil {
			t.Fatal(err)
		}
		if p.Spec.PodSelector.MatchLabels["app.kubernetes.io/name"] != pod || len(p.Spec.PolicyTypes) != 1 {
			t.Errorf("%s: %+v", file, p.Spec)
		}
		for _, rule := range p.Spec.Ingress {
			if len(rule.From) == 0 || len(rule.Ports) == 0 {
				t.Errorf("%s: a rule for everybody, or for every port", file)
			}
		}
	}
}

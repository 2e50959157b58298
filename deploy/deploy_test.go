// Package deploy_test checks the manifests of this folder: that each is what
// its kind allows, that every file belongs to something, and that the settings
// in them are valid ones.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/collector"
)

// kustomization is what this folder uses of kustomize.
type kustomization struct {
	APIVersion, Kind, Namespace string
	Resources, Components       []string
	Labels, Patches             []any
	ConfigMapGenerator          []struct {
		Name  string
		Files []string
	}
}

// custom are kinds that Kubernetes itself does not know.
var custom = map[string]bool{
	"cert-manager.io/v1/Issuer": true, "cert-manager.io/v1/Certificate": true, "monitoring.coreos.com/v1/PodMonitor": true,
	"monitoring.coreos.com/v1/PrometheusRule": true,
}

func object(kind string) any {
	switch kind {
	case "v1/Namespace":
		return &corev1.Namespace{}
	case "v1/ServiceAccount":
		return &corev1.ServiceAccount{}
	case "v1/Service":
		return &corev1.Service{}
	case "apps/v1/DaemonSet":
		return &appsv1.DaemonSet{}
	case "apps/v1/StatefulSet":
		return &appsv1.StatefulSet{}
	case "networking.k8s.io/v1/NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "policy/v1/PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "rbac.authorization.k8s.io/v1/ClusterRole":
		return &rbacv1.ClusterRole{}
	case "rbac.authorization.k8s.io/v1/ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{}
	}
	return nil
}

// strictly decodes JSON. An unknown field is an error.
func strictly(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// documents are those of a YAML file, as JSON.
func documents(t *testing.T, file string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, b)
	}
}

// TestEverythingBelongs walks from the kustomizations to the files: all of
// them are there, and no other.
func TestEverythingBelongs(t *testing.T) {
	named := map[string]bool{}
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if path == "examples" || path == "prometheus" {
				return fs.SkipDir
			}
			return err
		}
		if filepath.Base(path) != "kustomization.yaml" {
			if strings.HasSuffix(path, ".yaml") {
				files = append(files, path)
			}
			return nil
		}
		var k kustomization
		if err := strictly(documents(t, path)[0], &k); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, r := range append(k.Resources, k.Components...) {
			at := filepath.Join(filepath.Dir(path), r)
			if info, err := os.Stat(at); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if info.IsDir() {
				at = filepath.Join(at, "kustomization.yaml")
			}
			named[at] = true
		}
		for _, g := range k.ConfigMapGenerator {
			for _, f := range g.Files {
				named[filepath.Join(filepath.Dir(path), f)] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !named[f] {
			t.Errorf("%s belongs to no kustomization", f)
		}
		delete(named, f)
	}
	for f := range named {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}

func TestManifestsAreStrict(t *testing.T) {
	files, err := filepath.Glob("[abc]*/*.yaml")
	more, err2 := filepath.Glob("components/*/*.yaml")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	var decoded int
	for _, file := range append(files, more...) {
		for _, text := range documents(t, file) {
			var head struct{ APIVersion, Kind string }
			if err := json.Unmarshal(text, &head); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			kind := head.APIVersion + "/" + head.Kind
			o := object(kind)
			if o == nil {
				if head.Kind != "" && !strings.HasPrefix(kind, "kustomize.") && !custom[kind] {
					t.Errorf("%s: nothing is known of %s", file, kind)
				}
				continue
			}
			if err := strictly(text, o); err != nil {
				t.Errorf("%s: %s: %v", file, kind, err)
			}
			decoded++
		}
	}
	if decoded < 8 {
		t.Fatalf("only %d objects were found", decoded)
	}
}

// TestLeastPrivilege holds the promises of README.md.
func TestLeastPrivilege(t *testing.T) {
	var set appsv1.DaemonSet
	if err := strictly(documents(t, "agent/daemonset.yaml")[0], &set); err != nil {
		t.Fatal(err)
	}
	pod := set.Spec.Template.Spec
	c := pod.Containers[0].SecurityContext
	if !pod.HostPID || pod.HostNetwork || pod.HostIPC {
		t.Errorf("the agent's pod may do too much: %+v", pod)
	}
	confined(t, c)
	for _, m := range pod.Containers[0].VolumeMounts {
		if !m.ReadOnly && m.Name != "state" {
			t.Errorf("the agent may write to %s", m.MountPath)
		}
	}
	var role rbacv1.ClusterRole
	if err := strictly(documents(t, "agent/rbac.yaml")[1], &role); err != nil {
		t.Fatal(err)
	}
	for _, r := range role.Rules {
		for _, verb := range r.Verbs {
			if verb != "get" && verb != "list" && verb != "watch" {
				t.Errorf("the agent may %s %v", verb, r.Resources)
			}
		}
	}
}

func agentSettings(t *testing.T) agent.Config {
	t.Helper()
	text, err := os.ReadFile("agent/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := agent.ParseConfig("agent.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func collectorSettings(t *testing.T) collector.Config {
	t.Helper()
	text, err := os.ReadFile("collector/settings.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := collector.ParseConfig("settings.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSettingsAreValid(t *testing.T) {
	a, c := agentSettings(t), collectorSettings(t)
	if err := a.Validate(); err != nil {
		t.Error(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

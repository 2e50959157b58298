package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDeployed shows that deploy/ works on a real cluster: the agent is ready
// with no capability and a root file system that it can't write, and the
// collector knows the node's devices.
func TestDeployed(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	p := startProject(ctx, t, true, nil)
	for _, c := range []string{"cert-manager", "kubelet-pods", "nvidia-runtime-class", "prometheus-operator"} {
		p.builds(ctx, c)
	}
	if _, err := p.get(ctx, "/readyz"); err != nil {
		t.Fatalf("the agent is not ready: %v\n%s", err, p.diagnosis(ctx))
	}
	p.must(p.Await(ctx, "both devices are in the ledger", 30*time.Second, func(ctx context.Context) error {
		var answer struct {
			Devices []struct{ ID, PricePerHour string }
		}
		err := p.ask(ctx, "/v1/devices", url.Values{}, &answer)
		if err == nil && len(answer.Devices) != 2 {
			err = fmt.Errorf("%d devices", len(answer.Devices))
		}
		return err
	}))
}

// builds shows that kustomize takes a component, and that it changes something.
func (p *project) builds(ctx context.Context, component string) {
	p.t.Helper()
	deploy, err := filepath.Abs("../../deploy")
	p.must(err)
	dir := p.t.TempDir()
	relative, err := filepath.Rel(dir, deploy)
	p.must(err)
	text := fmt.Sprintf("resources: [%s]\ncomponents: [%[1]s/components/%s]\n", relative, component)
	p.must(os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600))
	with, err := p.Kubectl(ctx, "kustomize", dir)
	p.must(err)
	without, err := p.Kubectl(ctx, "kustomize", deploy)
	p.must(err)
	if bytes.Equal(with, without) {
		p.t.Errorf("the component %s changes nothing", component)
	}
}

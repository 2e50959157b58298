package kube_test

import (
	"context"
	"fmt"
	"net/url"
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

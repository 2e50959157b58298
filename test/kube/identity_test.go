package kube_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/kube"
)

// stranger is a pod with the agents' certificate that says it is another node;
// how it proves that is put in.
const stranger = `apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: gpuledger}
spec:
  serviceAccountName: %[2]s
  restartPolicy: Never
  hostAliases: [{ip: 10.99.0.1, hostnames: [gpuledger-collector.gpuledger.svc]}]
  containers:
    - name: agent
      image: kube.test/gpuledger-agent:1
      args: [--config, /etc/gpuledger/config/agent.yaml, --source, simulated, --nodes, "1", --state-dir, /state, --log-level, info]
      volumeMounts:
        - {name: config, mountPath: /etc/gpuledger/config}
        - {name: tls, mountPath: /etc/gpuledger/tls}
        - {name: token, mountPath: /var/run/secrets/gpuledger}
        - {name: state, mountPath: /state}
  volumes:
    - {name: config, configMap: {name: %[3]s}}
    - {name: tls, secret: {secretName: gpuledger-agent-tls}}
    - name: token
      projected:
        sources:
          - serviceAccountToken: {audience: %[4]s, expirationSeconds: 3600, path: token}
    - {name: state, emptyDir: {}}
`

// TestNodesAreWhoTheySay has the collector ask a real API server: the agent's
// own token is taken; who says it is another node is not, nor who has no token,
// one of another service account, or one for somebody else.
func TestNodesAreWhoTheySay(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	p := startProject(ctx, t, true, nil)
	p.must(p.Await(ctx, "the agent is ready", 30*time.Second, func(ctx context.Context) error {
		_, err := p.get(ctx, "/readyz")
		return err
	}))
	out, err := p.Kubectl(ctx, "-n", "gpuledger", "get", "daemonset", "gpuledger-agent", "-o",
		`jsonpath={.spec.template.spec.volumes[?(@.name=="config")].configMap.name}`)
	p.must(err)
	config := string(out)
	out, err = p.Kubectl(ctx, "-n", "gpuledger", "get", "configmap", config, "-o", `jsonpath={.data.agent\.yaml}`)
	p.must(err)
	bare := strings.Replace(string(out), "  token_file: /var/run/secrets/gpuledger/token\n", "", 1)
	if bare == string(out) {
		t.Fatalf("the agent sends no token:\n%s", out)
	}
	p.must(p.Apply(ctx, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bare, namespace: gpuledger}\ndata:\n  agent.yaml: |\n    "+
		strings.ReplaceAll(bare, "\n", "\n    ")))
	for name, c := range map[string]struct{ account, config, audience, want string }{
		"another-node":     {"gpuledger-agent", config, "gpuledger", "PermissionDenied"},
		"no-token":         {"gpuledger-agent", "bare", "gpuledger", "who sends is not known"},
		"another-account":  {"default", config, "gpuledger", "no service account of agents"},
		"another-audience": {"gpuledger-agent", config, "somebody-else", "is not meant for audience"},
	} {
		p.must(p.Apply(ctx, fmt.Sprintf(stranger, name, c.account, c.config, c.audience)))
		p.must(p.Await(ctx, name+" is refused", 60*time.Second, func(ctx context.Context) error {
			out, err := p.Kubectl(ctx, "-n", "gpuledger", "logs", name)
			if err == nil && !strings.Contains(string(out), c.want) {
				err = fmt.Errorf("it says:\n%s", out)
			}
			return err
		}))
	}
	var answer struct{ Nodes []struct{ Node string } }
	p.must(p.ask(ctx, "/v1/status", url.Values{}, &answer))
	var nodes []string
	for _, n := range answer.Nodes {
		nodes = append(nodes, n.Node)
	}
	if !slices.Equal(nodes, []string{kube.NodeName}) {
		t.Errorf("the collector knows the nodes %q, want %s alone", nodes, kube.NodeName)
	}
}

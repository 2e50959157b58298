package podwatch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
)

// maxNode bounds a node's description: its images and conditions come with it.
const maxNode = 4 << 20

// NodeLabels asks the API server once for the labels of a node. Keys and values
// that are no Kubernetes labels are left out.
func NodeLabels(ctx context.Context, kubeconfig, node string) (map[string]string, error) {
	to, err := server(kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := to.connect()
	if err != nil {
		return nil, err
	}
	defer c.close()
	body, err := c.get(ctx, "/api/v1/nodes/"+url.PathEscape(node), nil)
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", node, err)
	}
	defer func() { _ = body.Close() }()
	var o struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxNode)).Decode(&o); err != nil {
		return nil, fmt.Errorf("get node %s: %w", node, err)
	}
	fit, _ := labels(o.Metadata.Labels)
	return fit.Map(), nil
}

package collector

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/peers"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/internal/certs"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// others is how a collector deals with those that share its store. Nothing of it
// is there where the store is its own.
type others struct {
	name   string
	server *peers.Server
	asked  *peers.Peers // nil: nobody is configured
	tls    *certs.Set   // shown to and expected of those who are asked; nil: none
}

// openOthers makes what answers and asks the other collectors. The ingest server
// must be there, and the certificates that those who connect are shown.
func (c *Collector) openOthers() error {
	if _, shared := c.store.(store.Shared); !shared {
		return nil
	}
	conf := &c.cfg.Peers
	o := &others{name: conf.Name}
	if o.name == "" {
		o.name, _ = os.Hostname() // "" is a name, too
	}
	var instance peers.Instance
	if _, err := rand.Read(instance[:]); err != nil {
		return err
	}
	o.server = peers.NewServer(peers.ServerOptions{
		Instance: instance, Name: o.name, Version: c.deps.Version, Open: c.ingest.Open,
		Nodes: func() []*pb.NodeStatus { return c.nodes(true) },
	})
	c.others = o
	if len(conf.Addresses) == 0 {
		return nil
	}
	opts, err := c.peerDialOptions(o)
	if err != nil {
		return err
	}
	o.asked, err = peers.New(peers.Options{
		Instance: instance, Addresses: conf.Addresses, Timeout: conf.Timeout.Duration, Logger: c.deps.Log,
		Dial: peerDialer(opts),
	})
	return err
}

// peerDialer connects to collectors whose certificate is for a name, or for what
// is dialed.
func peerDialer(opts []grpc.DialOption) func(target, serverName string) (*grpc.ClientConn, error) {
	return func(target, serverName string) (*grpc.ClientConn, error) {
		if serverName != "" {
			return grpc.NewClient(target, append(slices.Clip(opts), grpc.WithAuthority(serverName))...)
		}
		return grpc.NewClient(target, opts...)
	}
}

// peerDialOptions are those of connections to other collectors.
func (c *Collector) peerDialOptions(o *others) ([]grpc.DialOption, error) {
	conf := &c.cfg.Peers
	creds := insecure.NewCredentials()
	if t := &c.cfg.TLS; t.CertFile != "" {
		var err error
		o.tls, err = certs.Open(certs.Options{
			Name: "peers", Cert: t.CertFile, Key: t.KeyFile, CA: cmp.Or(conf.CAFile, t.ClientCAFile), Log: c.deps.Log,
		})
		if err != nil {
			return nil, fmt.Errorf("%w: peers: %w", ErrConfig, err)
		}
		creds = o.tls.ClientCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
	}
	if conf.TokenFile != "" {
		t := peerToken{conf.TokenFile, o.tls != nil}
		if _, err := t.read(); err != nil {
			return nil, fmt.Errorf("%w: peers.token_file: %w", ErrConfig, err)
		}
		opts = append(opts, grpc.WithPerRPCCredentials(t))
	}
	return opts, nil
}

// queried is what questions ask the others by.
func (o *others) queried() query.Peers {
	if o == nil || o.asked == nil {
		return nil
	}
	return o.asked
}

// register has the others answered.
func (o *others) register(s *grpc.Server) {
	if o != nil {
		pb.RegisterPeerServer(s, o.server)
	}
}

// certificates are those of connections to the others, nil where there are none.
func (o *others) certificates() *certs.Set {
	if o == nil {
		return nil
	}
	return o.tls
}

func (o *others) close() {
	if o != nil && o.asked != nil {
		o.asked.Close()
	}
}

// peerToken is shown to other collectors, if only to those who prove who they
// are.
type peerToken struct {
	file      string
	encrypted bool
}

// maxToken bounds a token's file.
const maxToken = 16 << 10

func (t peerToken) read() (string, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 || len(b) > maxToken || bytes.ContainsAny(b, " \t\r\n") {
		return "", errors.New("it is no token")
	}
	return string(b), nil
}

// GetRequestMetadata shows the token.
func (t peerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := t.read()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + text}, nil
}

// RequireTransportSecurity keeps it off plain connections, unless all are.
func (t peerToken) RequireTransportSecurity() bool { return t.encrypted }

var _ credentials.PerRPCCredentials = peerToken{}

// nodes is how nodes do: all, or those that stream here now.
func (c *Collector) nodes(connected bool) []*pb.NodeStatus {
	var out []*pb.NodeStatus
	for _, n := range c.ingest.Nodes() {
		if strings.HasPrefix(n.Node, ingest.OwnPrefix) || (connected && !n.Connected) {
			continue
		}
		s := &pb.NodeStatus{
			Cluster: n.Cluster, Node: n.Node, Connected: n.Connected, StoredThrough: int64(n.StoredThrough),
			VisibleThrough: int64(n.VisibleThrough), AgentVersion: n.AgentVersion,
		}
		if c.others != nil && n.Connected {
			s.Collector = c.others.name
		}
		out = append(out, s)
	}
	return out
}

// addOthers tells how the other collectors do, and which nodes stream to them.
func (c *Collector) addOthers(ctx context.Context, res *pb.StatusResponse) {
	if c.others == nil || c.others.asked == nil {
		return
	}
	own := &pb.CollectorStatus{Name: c.others.name, Answering: true, Version: c.deps.Version, Nodes: int32(c.ingest.Stats().Streams)}
	res.Collectors = append(res.Collectors, own)
	for _, s := range c.others.asked.Status(ctx) {
		if s.Err != nil {
			res.Collectors = append(res.Collectors, &pb.CollectorStatus{Name: s.Address, Address: s.Address, Error: s.Err.Error()})
			res.Warnings = append(res.Warnings, fmt.Sprintf("the collector at %s does not answer: the newest seconds of its nodes are not seen here until they are stored", s.Address))
			continue
		}
		res.Collectors = append(res.Collectors, &pb.CollectorStatus{
			Name: s.Nodes.GetName(), Address: s.Address, Answering: true, Version: s.Nodes.GetVersion(), Nodes: int32(len(s.Nodes.GetNodes())),
		})
		res.Nodes = merge(res.GetNodes(), s.Nodes.GetNodes())
	}
}

// merge is what several collectors say of nodes: of each what the one knows that
// it streams to, and the newest that any has stored. Of two that a node streams
// to, as each believes, the one counts that has seen more of it.
func merge(a, b []*pb.NodeStatus) []*pb.NodeStatus {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y *pb.NodeStatus) int {
		return cmp.Or(cmp.Compare(x.GetCluster(), y.GetCluster()), cmp.Compare(x.GetNode(), y.GetNode()))
	})
	var out []*pb.NodeStatus
	for _, n := range all {
		k := len(out) - 1
		if k < 0 || out[k].GetCluster() != n.GetCluster() || out[k].GetNode() != n.GetNode() {
			out = append(out, n)
			continue
		}
		stored := max(out[k].GetStoredThrough(), n.GetStoredThrough())
		visible := max(out[k].GetVisibleThrough(), n.GetVisibleThrough())
		if n.GetConnected() && (!out[k].GetConnected() || n.GetVisibleThrough() > out[k].GetVisibleThrough()) {
			out[k] = n
		}
		out[k].StoredThrough, out[k].VisibleThrough = stored, visible
	}
	return out
}

// others yields what is counted of the other collectors.
func (m *metrics) others(out chan<- prometheus.Metric) {
	o := m.c.others
	if o == nil || o.asked == nil {
		return
	}
	s := o.asked.Stats()
	for _, v := range []struct {
		name, help string
		value      uint64
	}{
		{"peer_answers_total", "Times that another collector told what it has open.", s.Answers},
		{"peer_failures_total", "Times that another collector was asked and did not tell.", s.Failures},
		{"peer_chunks_total", "Chunks and live seconds of other collectors that were decoded.", s.Chunks},
		{"peer_chunk_bytes_total", "Bytes of them.", s.Bytes},
		{"peer_late_questions_total", "Questions that were answered without what some other collector has open.", s.Late},
	} {
		out <- prometheus.MustNewConstMetric(desc(v.name, v.help), prometheus.CounterValue, float64(v.value))
	}
}

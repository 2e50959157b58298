package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxState bounds a state file, in bytes: many times what the other bounds let
// it become.
const maxState = 1 << 30

// stateVersion is that of the file's form.
const stateVersion = 1

// state is a book as it is in its file.
type state struct {
	Version   int                                      `json:"version"`
	Name      string                                   `json:"name"`
	Boot      []byte                                   `json:"boot"`
	Through   attribution.Second                       `json:"through"`
	Newest    attribution.Second                       `json:"newest"` // first after every chunk that there ever was
	At        int64                                    `json:"at"`
	Tracker   []byte                                   `json:"tracker"`
	Processes map[string]attribution.Second            `json:"processes"`
	Current   map[string]string                        `json:"current"` // process by address
	Names     map[string]map[string]attribution.Second `json:"names"`
	Owed      []owedState                              `json:"owed,omitempty"`
	Chunks    []*chunkState                            `json:"chunks,omitempty"` // not known to be durable, in order
}

type owedState struct {
	Backend string `json:"backend,omitempty"`
	Model   string `json:"model,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Tier    string `json:"tier,omitempty"`
	Measure string `json:"measure"`
	Value   int64  `json:"value"`
}

// chunkState is a chunk as messages of the wire.
type chunkState struct {
	Cluster string `json:"cluster"`
	Roster  []byte `json:"roster"`
	Chunk   []byte `json:"chunk"`
}

// kinds are the names that are told apart, by what a state file calls them.
func (b *book) kinds() map[string]*names {
	return map[string]*names{"tenant": b.tenants, "model": b.models, "tier": b.tiers, "backend": b.backends, "reason": b.measures}
}

// encode is the book as a state file has it.
func (b *book) encode() ([]byte, error) {
	s := state{
		Version: stateVersion, Name: b.o.Name, Boot: b.boot[:], Through: b.through, Newest: b.newest, At: b.at, Tracker: b.tracker.State(),
		Processes: b.processes.seen, Current: make(map[string]string), Names: make(map[string]map[string]attribution.Second),
	}
	for at, a := range b.processes.addresses {
		s.Current[at] = a.current
	}
	for kind, n := range b.kinds() {
		s.Names[kind] = n.seen
	}
	for x, v := range b.owed {
		s.Owed = append(s.Owed, owedState{x.backend, x.model, x.tenant, x.tier, string(x.measure), v})
	}
	for _, e := range b.unstored {
		if e.wire == nil {
			var err error
			if e.wire, err = encodeChunk(e.chunk); err != nil {
				return nil, err
			}
		}
		s.Chunks = append(s.Chunks, e.wire)
	}
	return json.Marshal(&s)
}

func encodeChunk(c *attribution.Chunk) (*chunkState, error) {
	m, err := wire.EncodeChunk(c, c.Roster.Fingerprint())
	if err != nil {
		return nil, err
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	roster, err := proto.Marshal(wire.EncodeRoster(c.Roster))
	return &chunkState{Cluster: c.Key.Cluster, Roster: roster, Chunk: body}, err
}

func (c *chunkState) decode(node string) (*attribution.Chunk, error) {
	var roster pb.Roster
	var m pb.Chunk
	if err := errors.Join(proto.Unmarshal(c.Roster, &roster), proto.Unmarshal(c.Chunk, &m)); err != nil {
		return nil, err
	}
	r, err := wire.DecodeRoster(&roster)
	if err != nil {
		return nil, err
	}
	return wire.DecodeChunk(&m, c.Cluster, node, r)
}

// errOlder says that a state file is older than the ledger's own record.
var errOlder = errors.New("the ledger has later seconds of this gateway than its state file knows of: the file is an older copy")

// decodeBook makes the book of a state file. It is an error where the file is
// damaged, of another gateway, or older than the ledger, which has the gateway's
// seconds up to stored.
func decodeBook(o *Options, text []byte, stored attribution.Second) (*book, error) {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	b := &book{
		o: o, owner: ownerOf(o), through: s.Through, newest: s.Newest, at: s.At, processes: newProcesses(),
		tenants: newNames(o.MaxTenants), models: newNames(mostModels), tiers: newNames(mostTiers),
		backends: newNames(mostBackends), measures: newNames(mostMeasures), owed: make(map[sum]int64),
	}
	switch {
	case s.Version != stateVersion:
		return nil, fmt.Errorf("it is of version %d: want %d", s.Version, stateVersion)
	case s.Name != o.Name || len(s.Boot) != len(b.boot) || s.Through < 0 || s.Through > s.Newest || s.Newest > attribution.MaxSecond:
		return nil, errors.New("it is not this gateway's")
	case stored > s.Newest:
		return nil, errOlder
	}
	copy(b.boot[:], s.Boot)
	var err error
	if b.tracker, err = serving.RestoreTracker(s.Tracker, math.MaxInt64, trackerLimits()); err != nil {
		return nil, err
	}
	maps.Copy(b.processes.seen, s.Processes)
	for at, name := range s.Current {
		b.processes.addresses[at] = &address{current: name}
	}
	for kind, n := range b.kinds() {
		maps.Copy(n.seen, s.Names[kind])
	}
	for _, x := range s.Owed {
		if x.Value <= 0 {
			return nil, errors.New("it owes less than nothing")
		}
		b.owe(sum{x.Backend, x.Model, x.Tenant, x.Tier, attribution.Measure(x.Measure)}, x.Value)
	}
	for i := range s.Chunks {
		if s.Chunks[i] == nil {
			return nil, fmt.Errorf("chunk %d: it is empty", i)
		}
		c, err := s.Chunks[i].decode(nodeName(o.Name))
		if err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
		b.unstored = append(b.unstored, &entry{chunk: c, wire: s.Chunks[i]})
	}
	return b, nil
}

// writeFile makes a file appear with its whole content, durably.
func writeFile(name string, content []byte) error {
	dir := filepath.Dir(name)
	f, err := os.OpenFile(filepath.Join(dir, "."+filepath.Base(name)+".tmp"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readState is a state file's content, nil where there is none.
func readState(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return nil, fmt.Errorf("%s is no plain file of at most %d bytes\nhint: without it counting begins anew: move it away", name, int64(maxState))
	}
	return os.ReadFile(name)
}

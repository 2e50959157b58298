package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/agent/sampler/simulated"
)

// OpenSource opens what a valid configuration names. now is the wall clock,
// in Unix seconds.
func OpenSource(cfg *Config, stdin io.Reader, now int64, logger *slog.Logger) (Source, error) {
	switch cfg.Source {
	case SourceReplay:
		return openReplay(&cfg.Replay, stdin)
	case SourceSimulated:
		return openSimulated(cfg, now)
	default:
		return openGPUNode(cfg, logger)
	}
}

// openReplay checks a recording to its end before anything of it is played, so
// that a bad one changes nothing. Standard input can't be read twice: what is
// wrong with it shows when it is met.
func openReplay(cfg *ReplayConfig, stdin io.Reader) (Source, error) {
	if cfg.File == "-" {
		r, err := replay.NewReader(stdin, "standard input")
		if err != nil {
			return Source{}, err
		}
		return Source{Script: r, Speed: cfg.Speed}, nil
	}
	if _, err := replay.Check(cfg.File); err != nil {
		return Source{}, err
	}
	r, err := replay.Open(cfg.File)
	if err != nil {
		return Source{}, err
	}
	return Source{Script: r, Speed: cfg.Speed}, nil
}

// simulation is what state_dir remembers of a simulation that started now, so
// that it goes on after a restart.
type simulation struct {
	Config SimulatedConfig `json:"config"`
	Start  int64           `json:"start"`  // Unix second
	Anchor int64           `json:"anchor"` // Unix second at which it was now
}

func openSimulated(cfg *Config, now int64) (Source, error) {
	c := cfg.Simulated
	opt := simulated.Options{
		Seed: c.Seed, Cluster: cfg.Cluster, Start: c.Start, Duration: int64(c.Duration.Seconds()), Nodes: c.Nodes, Devices: c.Devices,
	}
	if c.Profile == ProfileBusy {
		opt.Profile = simulated.Busy
	}
	s := Source{Speed: c.Speed}
	if c.Start == 0 && c.Speed > 0 {
		sim, err := resumeSimulation(filepath.Join(cfg.StateDir, "simulation.json"), simulation{
			Config: c, Start: now - int64(c.Backfill.Seconds()), Anchor: now,
		})
		if err != nil {
			return Source{}, err
		}
		opt.Start, s.Anchor = sim.Start, sim.Anchor*int64(time.Second)
	}
	script, err := simulated.New(opt)
	if err != nil {
		return Source{}, err
	}
	s.Script = script
	return s, nil
}

// resumeSimulation is the simulation that an earlier run began with the same
// configuration, or fresh, which it keeps.
func resumeSimulation(name string, fresh simulation) (simulation, error) {
	var kept simulation
	b, err := os.ReadFile(name)
	switch {
	case err == nil && json.Unmarshal(b, &kept) == nil && kept.Config == fresh.Config:
		return kept, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return simulation{}, fmt.Errorf("the simulation's start: %w", err)
	}
	if b, err = json.Marshal(fresh); err == nil {
		if err = os.MkdirAll(filepath.Dir(name), 0o750); err == nil {
			err = writeFile(name, append(b, '\n'))
		}
	}
	if err != nil {
		return simulation{}, fmt.Errorf("keep the simulation's start: %w", err)
	}
	return fresh, nil
}

// writeFile replaces a file whole.
func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

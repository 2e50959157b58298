package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector"
	"github.com/gpuledger/gpuledger/collector/store/archive"
)

// carrying are the commands that work on whole ledgers, with no collector
// running on them.
func (p *program) carrying() []*cobra.Command {
	return []*cobra.Command{p.backup(), p.restore(), p.migrate()}
}

func (p *program) backup() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Save the whole ledger to a file, with the collector stopped",
		Long: `backup writes everything that the ledger holds to one file, as "gpuledger
backup" does of a running collector. It needs the ledger for itself.`,
		Example: `  gpuledger-collector backup --config collector.yaml --out ledger.gpuledger`,
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.config(c)
			if err != nil {
				return err
			}
			if out == "" {
				return usageError{errors.New("--out is missing: name the file to write")}
			}
			var sum *archive.Summary
			if err := newFile(out, func(w io.Writer) (err error) {
				sum, err = collector.Backup(c.Context(), cfg, version, w, cfg.Log.Logger(p.stderr))
				return err
			}); err != nil {
				return err
			}
			return p.sayf("%s: %s\n", out, sum)
		},
	}
	addFlags(c)
	c.Flags().StringVarP(&out, "out", "o", "", "file to write; it must not be there yet")
	return c
}

// newFile makes a file for its owner's eyes, which appears when it is whole.
func newFile(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return usageError{fmt.Errorf("%s is there already: take another name", path)}
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (p *program) restore() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make an empty ledger of a backup, and verify it",
		Long: `restore fills the ledger that the settings name, of whatever kind of store, with
what a backup holds. The ledger must be empty: give it a new data_dir. A backup
that was cut off or altered is refused before anything is written; at the end
all sums and hashes are held against what the backup says of the original.

If it is interrupted, what is there is no ledger and is refused as one: remove
it and begin again.`,
		Example: `  gpuledger-collector restore ledger.gpuledger --data-dir /var/lib/gpuledger-new
  gpuledger-collector restore ledger.gpuledger --config clickhouse.yaml`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("%q wants one file, got %d arguments", c.CommandPath(), len(args))}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := p.config(c)
			if err != nil {
				return err
			}
			syscall.Umask(0o077)
			return p.restoreFile(c.Context(), args[0], cfg)
		},
	}
	addFlags(c)
	return c
}

func (p *program) restoreFile(ctx context.Context, file string, cfg *collector.Config) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it is only read
	info, err := collector.Restore(ctx, cfg, f, cfg.Log.Logger(p.stderr))
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	return p.sayf("Restored and verified: the ledger of %s, %s.\n", info.Made.Format(time.RFC3339), info.Holds)
}

func (p *program) migrate() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "migrate --from FILE --to FILE",
		Short: "Carry a ledger over into another store, and verify it",
		Long: `migrate fills the empty ledger that one file of settings names with all that the
ledger of another holds: from DuckDB to ClickHouse, or any other way. No
collector may run on either. The old ledger stays as it is. At the end both are
held against each other: all sums and hashes, per day.

If it is interrupted, what is there is no ledger and is refused as one: remove
it and begin again.`,
		Example: `  gpuledger-collector migrate --from collector.yaml --to clickhouse.yaml`,
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if from == "" || to == "" {
				return usageError{errors.New("--from and --to are both wanted: files with settings")}
			}
			old, err := readConfig(from)
			if err != nil {
				return err
			}
			cfg, err := readConfig(to)
			if err != nil {
				return err
			}
			syscall.Umask(0o077)
			sum, err := collector.Migrate(c.Context(), old, cfg, cfg.Log.Logger(p.stderr))
			if err != nil {
				return fmt.Errorf("migrate: %w", err)
			}
			return p.sayf("Migrated and verified: both ledgers hold %s.\n", sum)
		},
	}
	c.Flags().StringVar(&from, "from", "", "settings (YAML) of the collector that has the ledger")
	c.Flags().StringVar(&to, "to", "", "settings (YAML) of the one that shall have it")
	return c
}

// readConfig reads a file of settings alone.
func readConfig(file string) (*collector.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("read the settings: %w", err)}
	}
	cfg, err := collector.ParseConfig(file, text)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return nil, usageError{err}
	}
	return &cfg, nil
}

func (p *program) sayf(format string, args ...any) error {
	_, err := fmt.Fprintf(p.stdout, format, args...)
	return err
}

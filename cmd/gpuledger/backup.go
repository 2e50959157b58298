package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector/store/archive"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newBackup(t *target) *cobra.Command {
	var out string
	var force bool
	c := &cobra.Command{
		Use:   "backup",
		Short: "Save the whole ledger to a file, while it is in use",
		Long: `backup writes everything that the ledger holds to one file: chunks, sums, what
is stored of which node, rate cards, rules, reratings. It is the ledger as of
one moment; what comes meanwhile is not in it. The collector goes on.

The file is checked and appears when it is whole. It tells what everybody costs,
so that only you can read it. An existing one is kept unless --force. What the
line at the end says of it, "backup check" says again.

"gpuledger-collector restore" makes a ledger of it, of any kind of store. It
takes the role of an administrator to make one.`,
		Example: `  gpuledger backup --out /backup/ledger-$(date +%F).gpuledger
  gpuledger backup --data ./ledger --out ledger.gpuledger
  gpuledger backup check ledger.gpuledger`,
		Args: cobra.ArbitraryArgs, // so that showHelp tells of a mistyped subcommand
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return showHelp(c, args)
			}
			if err := writable(out, force); err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				return backup(c.Context(), l, out, c.OutOrStdout(), c.ErrOrStderr())
			})
		},
	}
	c.Flags().StringVarP(&out, "out", "o", "", "file to write")
	c.Flags().BoolVar(&force, "force", false, "replace the file if there is one")
	c.AddCommand(newBackupCheck())
	return c
}

// writable refuses a file that must not be written, before anybody is asked.
func writable(out string, force bool) error {
	if out == "" || out == "-" {
		return usagef("--out is missing: name the file to write, such as --out ledger.gpuledger")
	}
	if err := replaceable(out); err != nil {
		return err
	}
	if _, err := os.Lstat(out); err == nil && !force {
		return usagef("%s is there already: take another name, or --force to replace it", out)
	}
	return nil
}

// backup writes the file, reads it back, and says what is in it.
func backup(ctx context.Context, l pb.LedgerClient, out string, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where writing fails
	stream, err := l.Backup(ctx, &pb.BackupRequest{})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err // before anything is written
	}
	bar := newProgress(stderr)
	defer bar.clear()
	var info *archive.Info
	err = writeWhole(out, 0o600, func(f *os.File) error {
		size := int64(0)
		for m := first; ; {
			n, err := f.Write(m.GetData())
			if err != nil {
				return err
			}
			size += int64(n)
			bar.show("saving", 0, 0, fmt.Sprintf("%d MB", size>>20))
			if m, err = stream.Recv(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		var err error
		info, err = check(ctx, f, size, bar)
		return err
	})
	if err != nil {
		return err
	}
	bar.clear()
	return tell(stdout, out, info)
}

func check(ctx context.Context, f io.Reader, size int64, bar *progress) (*archive.Info, error) {
	return archive.Check(ctx, f, func(p archive.Progress) error {
		bar.show("checking", p.Bytes, size, fmt.Sprintf("%d MB", p.Bytes>>20))
		return nil
	})
}

func newBackupCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a backup is whole, and what it holds",
		Long: `check reads a backup from its beginning to its end and holds it against the
hashes in it. It fails where the file was cut off or altered, and says at which
byte. It asks no collector.`,
		Example: `  gpuledger backup check ledger.gpuledger`,
		Args:    exactArgs(1, "one file"),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close() //nolint:errcheck // it was only read
			st, err := f.Stat()
			if err != nil {
				return err
			}
			bar := newProgress(c.ErrOrStderr())
			defer bar.clear()
			info, err := check(c.Context(), f, st.Size(), bar)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			bar.clear()
			return tell(c.OutOrStdout(), args[0], info)
		},
	}
}

func tell(w io.Writer, path string, info *archive.Info) error {
	_, err := fmt.Fprintf(w, "%s: whole, %s bytes, made %s by %s\n%s\n", path, thousands(fmt.Sprint(info.Bytes)),
		info.Made.Format(time.RFC3339), programText(info.Program), info.Holds)
	return err
}

func programText(version string) string {
	if version == "" {
		return "an unknown version"
	}
	return "version " + version
}

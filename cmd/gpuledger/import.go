package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/agent/sampler/traces"
)

func newImport() *cobra.Command {
	c := &cobra.Command{
		Use:   "import",
		Short: "Turn a published production trace into a recording",
		Long: `import reads a public trace and writes a recording, which gpuledger replay plays.
What a trace does not say is assumed; the assumptions are in the recording's
first line, under "notes", and most can be set by flags: see the help of each.
The same files and flags make the same recording, byte for byte.`,
		Example: `  gpuledger import gentd26 ./traces/gentd26 -o gentd26.jsonl
  gpuledger import azure-llm ./traces/azure | gzip > azure.jsonl.gz`,
		RunE: showHelp,
	}
	for _, i := range traces.All() {
		c.AddCommand(newImporter(i))
	}
	return c
}

func newImporter(i traces.Importer) *cobra.Command {
	var out string
	options := map[string]*string{}
	c := &cobra.Command{
		Use:   i.Name + " DIR",
		Short: i.Summary,
		Long: i.Summary + `.

DIR holds the trace's CSV files as they were published, plain or in gzip. The
recording is written whole or not at all; flags set what the trace does not say.`,
		Example: fmt.Sprintf("  gpuledger import %s ./traces/%s -o %s.jsonl", i.Name, i.Name, i.Name),
		Args:    exactArgs(1, "the trace's folder"),
		RunE: func(c *cobra.Command, args []string) error {
			given := map[string]string{}
			for name, v := range options {
				if c.Flags().Changed(name) {
					given[name] = *v
				}
			}
			bar := newProgress(c.ErrOrStderr())
			defer bar.clear()
			show := func(p traces.Progress) {
				bar.show(p.Stage, int64(p.Done), int64(p.Total), thousands(fmt.Sprint(p.Done))+" done")
			}
			return writeRecording(c.OutOrStdout(), out, func(w *replay.Writer) error {
				return i.Import(c.Context(), args[0], given, w, show)
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&out, "output", "o", "", "file to write (default: standard output)")
	for _, o := range i.Options {
		options[o.Name] = f.String(o.Name, o.Default, o.Help)
	}
	return c
}

// writeRecording writes to a file, which appears only when it is whole, or to
// standard output.
func writeRecording(stdout io.Writer, path string, write func(*replay.Writer) error) error {
	if path == "" || path == "-" {
		return writeTo(stdout, write)
	}
	if err := replaceable(path); err != nil {
		return err
	}
	return writeWhole(path, 0o644, func(f *os.File) error { return writeTo(f, write) })
}

func writeTo(out io.Writer, write func(*replay.Writer) error) error {
	b := bufio.NewWriterSize(out, 1<<20)
	w := replay.NewWriter(b)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return b.Flush()
}

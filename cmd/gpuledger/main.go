// Command gpuledger asks the ledger, and feeds it recordings: showback reports,
// unit costs, a live view, imports of public traces, replays, and verification
// of the laws.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// version is set when linking.
var version = "dev"

// The exit codes.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitBroken // verify found a broken law

	// exitInterrupted is what shells say of programs that Ctrl-C ended.
	exitInterrupted = 130
)

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// brokenError says that the ledger breaks a law.
type brokenError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and maps its error to an exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	var broken brokenError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled):
		say(stderr, "interrupted")
		return exitInterrupted
	case errors.As(err, &usage):
		say(stderr, err.Error())
		return exitUsage
	case status.Code(err) == codes.InvalidArgument: // the collector knows better what can be asked
		say(stderr, describe(err))
		return exitUsage
	case errors.As(err, &broken):
		say(stderr, err.Error())
		return exitBroken
	}
	say(stderr, describe(err))
	return exitFailure
}

// say tells the user something that is not part of the answer.
func say(stderr io.Writer, text string) {
	_, _ = fmt.Fprintf(stderr, "gpuledger: %s\n", text) // nobody else to tell
}

// describe strips gRPC's wrapping, which says nothing to a person.
func describe(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "gpuledger",
		Short: "What each GPU second cost, who owes it, and what 1k inferences cost",
		Long: `gpuledger asks the ledger: every GPU-second of the cluster has exactly one
price and exactly one set of owners.

By default it talks to a running collector (--collector). With --data it opens
a ledger folder by itself: it starts the collector program beside it on
loopback, asks, and stops it again.

New here? "gpuledger demo" needs no GPU, no cluster and no settings.

It exits 0 when all is well, 1 when something failed, 2 when it was called
wrongly, 3 when verify found a broken law, and 130 when it was interrupted.`,
		Example: `  gpuledger report --last 24h --by team
  gpuledger inferences --by model
  gpuledger slo --p95 2s --errors 1% --cost 0.002 --last 7d
  gpuledger top
  gpuledger import gentd26 ./traces/gentd26 -o gentd26.jsonl
  gpuledger replay gentd26.jsonl --data ./ledger --ratecard prices.yaml
  gpuledger verify --data ./ledger`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // so that showHelp gets them
		RunE:          showHelp,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w\nSee: %s --help", err, c.CommandPath())
	})
	t := &target{}
	flags := root.PersistentFlags()
	flags.StringVar(&t.collector, "collector", envOr("GPULEDGER_COLLECTOR", "127.0.0.1:9440"), "address of a running collector [GPULEDGER_COLLECTOR]")
	flags.StringVar(&t.data, "data", os.Getenv("GPULEDGER_DATA"), "ledger folder to open instead of asking a running collector [GPULEDGER_DATA]")
	flags.StringVar(&t.tls.ca, "ca-file", os.Getenv("GPULEDGER_CA_FILE"), "certificates (PEM) to check the collector's against; makes the connection TLS [GPULEDGER_CA_FILE]")
	flags.BoolVar(&t.tls.system, "system-ca", false, "check the collector's certificate against the system's; makes the connection TLS")
	flags.StringVar(&t.tls.cert, "cert-file", os.Getenv("GPULEDGER_CERT_FILE"), "your own certificate (PEM), where the collector wants one [GPULEDGER_CERT_FILE]")
	flags.StringVar(&t.tls.key, "key-file", os.Getenv("GPULEDGER_KEY_FILE"), "its key (PEM) [GPULEDGER_KEY_FILE]")
	flags.StringVar(&t.token.file, "token-file", os.Getenv("GPULEDGER_TOKEN_FILE"), "file with the token that the collector wants to see [GPULEDGER_TOKEN_FILE]")
	flags.StringVar(&t.token.token, "token", "", "the token itself; everybody on this machine can see it among the processes, so prefer --token-file [GPULEDGER_TOKEN]")
	flags.BoolVar(&t.token.insecure, "insecure-token", false, "send the token in plain text to other machines, too")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		if err := t.token.choose(c.Flags().Changed("token"), c.Flags().Changed("token-file")); err != nil {
			return err
		}
		if !c.Flags().Changed("collector") {
			return nil
		}
		if c.Flags().Changed("data") {
			return usagef("--collector and --data exclude each other: ask a running collector, or open a folder")
		}
		t.data = "" // what is said now counts more than the environment
		return nil
	}
	addGroup(root, "Ask:", newReport(t), newInferences(t), newRuns(t), newSLO(t), newTop(t), newDevices(t), newStatus(t), newVerify(t), newAudit(t), newWhoAmI(t))
	addGroup(root, "Try and fill:", newDemo(), newImport(), newReplay(t), newLoadgen(t))
	addGroup(root, "Hand on:", newExport(t), newFocus(), newBackup(t))
	addGroup(root, "Set:", newRateCard(t), newRerate(t), newRules(t), newToken())
	return root
}

// addGroup adds commands under a heading of their own.
func addGroup(root *cobra.Command, title string, cs ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, c := range cs {
		c.GroupID = title
	}
	root.AddCommand(cs...)
}

// showHelp is what a command does that only has subcommands: without it, a
// mistyped subcommand would print the help and succeed.
func showHelp(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	c.SuggestionsMinimumDistance = 2
	hint := "See: " + c.CommandPath() + " --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "Did you mean: " + c.CommandPath() + " " + near[0]
	}
	return usagef("there is no %s %s\n%s", c.CommandPath(), args[0], hint)
}

func envOr(name, or string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return or
}

// exactArgs is cobra.ExactArgs with a usage error that says what is wanted.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s wants %s, got %d argument(s)\nSee: %s --help", c.CommandPath(), what, len(args), c.CommandPath())
		}
		return nil
	}
}

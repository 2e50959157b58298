// Command gpuledger-agent meters a node's GPUs and sends what it has sealed to
// a collector.
//
// Its exit code is 0 when it was told to stop or a script has ended, 1 when it
// failed, and 2 when it was called or configured wrongly. A first SIGINT or
// SIGTERM stops it gracefully; a second one at once.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/gpuledger/gpuledger/agent"
)

// version is set by the linker.
var version = "dev"

func main() {
	// The first signal ends ctx, the second ends abort.
	ctx, stop := context.WithCancel(context.Background())
	abort, kill := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals
		kill()
	}()
	os.Exit(execute(ctx, abort, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// usageError is a mistake of the caller.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// execute is the program: its exit code.
func execute(ctx, abort context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int { //nolint:revive // two contexts: two signals
	p := &program{abort: abort, stdin: stdin, stdout: stdout, stderr: stderr}
	root := p.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		say(stderr, err, "\nSee gpuledger-agent --help.")
		return 2
	case errors.Is(err, agent.ErrAborted):
		say(stderr, "stopped at once; what was not acknowledged stays in the spool")
		return 1
	}
	say(stderr, err)
	return 1
}

func say(w io.Writer, what ...any) {
	_, _ = fmt.Fprintf(w, "gpuledger-agent: %s\n", fmt.Sprint(what...)) // nobody else to tell
}

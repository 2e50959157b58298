// Command kube starts the tests' Kubernetes for a person to look at:
//
//	kube up [--pods-api]     starts it; Ctrl-C ends it
//	kube in COMMAND ...      runs a command in the node, such as: kube in kubectl get pods -A
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/gpuledger/gpuledger/test/kube"
)

func main() {
	kube.Main()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 1 && args[0] == "in":
		cmd, err := kube.CommandIn(ctx, args[1], args[2:]...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	case len(args) > 0 && args[0] == "up":
		return up(ctx, args[1:])
	}
	return errors.New("want: kube up [--pods-api], or kube in COMMAND")
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	podsAPI := flags.Bool("pods-api", false, "turn the kubelet's Pods API on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cluster, err := kube.Start(ctx, kube.Options{PodsAPI: *podsAPI, Logf: func(format string, args ...any) {
		_, _ = fmt.Fprintf(os.Stderr, format+"\n", args...)
	}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return cluster.Stop()
}

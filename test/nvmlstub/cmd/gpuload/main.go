// Command gpuload is a process that does nothing but exist, under a chosen
// command line and for a chosen time: the "CUDA program" of demos and tests,
// which scenarios of the NVML stub match.
//
//	gpuload --name trainer --for 90s --processes 3
//
// With several processes, the first starts the others as
//
//	gpuload --name trainer --process 2
//
// It ends by itself after its time with exit code 0, and on SIGTERM or SIGINT
// with --exit-code (0), unless it ignores them. Its children end with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

type options struct {
	name      string
	lasts     time.Duration
	processes int
	process   int
	ignore    bool
	exitCode  int
}

func main() {
	runtime.LockOSThread()
	code, err := run(os.Args, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gpuload:", err)
	}
	os.Exit(code)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.name, "name", "load", "what scenarios know it by")
	f.DurationVar(&o.lasts, "for", 0, "how long it lives; 0: until it is told to end")
	f.IntVar(&o.processes, "processes", 1, "how many processes it is")
	f.IntVar(&o.process, "process", 1, "which of them this is (set by the first)")
	f.BoolVar(&o.ignore, "ignore-term", false, "ignore SIGTERM and SIGINT")
	f.IntVar(&o.exitCode, "exit-code", 0, "exit code after SIGTERM or SIGINT")
	if err := f.Parse(args[1:]); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.processes < 1 || o.processes > 1024 || o.lasts < 0 {
		return o, errors.New("no arguments, 1 to 1024 processes, and a time of at least 0")
	}
	return o, nil
}

func run(args []string, stdout, stderr io.Writer) (int, error) {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0, nil
	}
	if err != nil {
		return 2, err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if o.ignore { // taken, and never looked at
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT)
	} else {
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
	}
	end, err := children(o, stdout, stderr)
	defer end()
	if err != nil {
		return 1, err
	}
	if _, err := fmt.Fprintf(stdout, "gpuload %s: process %d of %d, pid %d\n", o.name, o.process, max(o.process, o.processes), os.Getpid()); err != nil {
		return 1, fmt.Errorf("say hello: %w", err)
	}
	var over <-chan time.Time
	if o.lasts > 0 {
		timer := time.NewTimer(o.lasts)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
		return 0, nil
	case <-ctx.Done():
		return o.exitCode, nil
	}
}

// children starts the other processes. The function that it returns kills
// them and waits for their end.
func children(o options, stdout, stderr io.Writer) (func(), error) {
	var started []*exec.Cmd
	end := func() {
		for _, c := range started {
			_ = c.Process.Kill() // it may be gone
		}
		for _, c := range started {
			_ = c.Wait() // killed, which is what was wanted
		}
	}
	self, err := os.Executable()
	if err != nil {
		return end, fmt.Errorf("find this program: %w", err)
	}
	for i := 2; i <= o.processes; i++ {
		c := exec.Command(self, "--name", o.name, "--process", strconv.Itoa(i)) //nolint:noctx // its end is end's business
		c.Args[0] = os.Args[0]
		c.Stdout, c.Stderr = stdout, stderr
		// A child dies with the thread that started it, which lives as long as
		// the process: main is locked to it.
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			return end, fmt.Errorf("start process %d: %w", i, err)
		}
		started = append(started, c)
	}
	return end, nil
}

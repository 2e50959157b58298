package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopGrace is how long a program may take to end.
const stopGrace = 30 * time.Second

// child is a program that runs until the demo ends.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start starts a program, which ends with the demo.
func (d *demo) start(path string, env []string, output io.Writer, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(path, args...), done: make(chan struct{})} //nolint:noctx // it is stopped in its turn
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stdout, c.cmd.Stderr = output, output
	// A group of its own, so that Ctrl-C reaches it only through us, in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (make build puts it there): %w", filepath.Base(path), err)
	}
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // seen in ProcessState
	}()
	d.atEnd(c.stop)
	return c, nil
}

// stop ends the program, if it still is.
func (c *child) stop() error {
	select {
	case <-c.done:
		return nil
	default:
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may just end by itself
	t := time.NewTimer(stopGrace)
	defer t.Stop()
	select {
	case <-c.done:
		return nil
	case <-t.C:
		_ = c.cmd.Process.Kill()
		<-c.done
		return errors.New(c.cmd.Path + " did not end when it was told to")
	}
}

// Package loopback finds addresses for programs that tests and demonstrations
// start, and that must be told beforehand where to listen.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
)

// given are the ports that this process has been told of. The ports are one
// machine's, hence one process's: a program that was killed and is to come back
// finds its own free.
var given sync.Map // of int

// Address is an address of 127.0.0.1 that nobody listens on. This process is told
// of each port once.
//
// Its port lies outside the range out of which the kernel gives ports away by
// itself, so that between this call and the program's own nobody gets it by
// chance: neither a listener on port 0 nor an outgoing connection, of which
// tests that run side by side make hundreds.
func Address() (string, error) {
	low, high := ephemeral()
	first, last := 10_000, low-1
	if last-first < 1000 {
		first, last = high+1, 65_535
	}
	if last-first < 100 {
		first, last = 1024, 65_535 // the kernel gives away nearly all: chance must do
	}
	failed := errors.New("those that were not given out before")
	for range 100 {
		port := first + rand.IntN(last-first+1) //nolint:gosec // spread, not secret
		if _, again := given.LoadOrStore(port, true); again {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("no free port on loopback in 100 tries: %w", failed)
}

// ephemeral is the range of ports that the kernel gives away.
// Source: ip(7), ip_local_port_range.
func ephemeral() (low, high int) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &low, &high)
	}
	if err != nil || low < 1 || high < low || high > 65_535 {
		return 32_768, 60_999 // Linux's own default
	}
	return low, high
}

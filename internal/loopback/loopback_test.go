package loopback

import (
	"net"
	"strconv"
	"testing"
)

// TestAddress takes what it is given, and what the kernel gives away by itself
// is never the same.
func TestAddress(t *testing.T) {
	low, high := ephemeral()
	for range 50 {
		addr, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("%s was said to be free: %v", addr, err)
		}
		defer l.Close()
		_, text, _ := net.SplitHostPort(addr)
		port, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		if low >= 11_000 && port >= low && port <= high {
			t.Errorf("port %d lies in the range that the kernel gives away, %d to %d", port, low, high)
		}
	}
}

// TestAddressIsGivenOnce asks for many, so that by chance alone some would come
// twice.
func TestAddressIsGivenOnce(t *testing.T) {
	had := make(map[string]bool)
	for range 2000 {
		addr, err := Address()
		if err != nil {
			t.Fatal(err)
		}
		if had[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		had[addr] = true
	}
}

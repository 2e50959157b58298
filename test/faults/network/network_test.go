package network

import (
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestALinkDoesAsItIsTold(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	for name, c := range map[string]struct {
		conditions Conditions
		lost, kept int
	}{
		"good":  {Conditions{}, 0, 1000},
		"cut":   {Conditions{Cut: true}, 1000, 0},
		"lossy": {Conditions{LossPercent: 100}, 1000, 0},
		"twice": {Conditions{TwicePct: 100}, 0, 2000},
		// 20 kB of 100 kB/s fill a fifth of a second.
		"slow": {Conditions{Rate: 100_000}, 800, 200},
	} {
		w := &way{rng: rng, conditions: c.conditions}
		for range 1000 {
			w.take(make([]byte, 100), time.Unix(0, 0))
		}
		if int(w.lost) != c.lost || len(w.queue) != c.kept {
			t.Errorf("%s: %d lost, %d underway", name, w.lost, len(w.queue))
		}
	}
	jitter := &way{rng: rng, conditions: Conditions{Delay: time.Second, Jitter: time.Second}}
	for i := range 100 {
		jitter.take([]byte{byte(i)}, time.Unix(0, 0))
	}
	var order []byte
	for {
		p, wait, _ := jitter.next(time.Unix(2, 0))
		if wait > 0 {
			break
		}
		order = append(order, p...)
		if early, _, _ := jitter.next(time.Unix(0, 999_999_999)); early != nil {
			t.Error("a packet is early")
		}
	}
	overtaken := 0
	for i := 1; i < len(order); i++ {
		if order[i] < order[i-1] {
			overtaken++
		}
	}
	if len(order) != 100 || overtaken == 0 {
		t.Errorf("%d arrived, %d overtaken", len(order), overtaken)
	}
}

func TestPacketsPassUntilTheLinkIsCut(t *testing.T) {
	l := New(t, 1)
	var server, client net.PacketConn
	for s, c := range map[Side]*net.PacketConn{Left: &client, Right: &server} {
		err := within(l.names[s], func() (err error) {
			*c, err = net.ListenPacket("udp", net.JoinHostPort(s.Address(), "9000"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer (*c).Close()
	}
	to := &net.UDPAddr{IP: net.ParseIP(Right.Address()), Port: 9000}
	buffer := make([]byte, 100)
	if _, err := client.WriteTo([]byte("hello"), to); err != nil {
		t.Fatal(err)
	}
	if n, from, err := server.ReadFrom(buffer); err != nil || string(buffer[:n]) != "hello" || !strings.HasPrefix(from.String(), Left.Address()) {
		t.Fatalf("%q from %v, %v", buffer[:n], from, err)
	}
	l.Set(Left, Conditions{Cut: true})
	before := l.Lost(Left)
	if _, err := client.WriteTo([]byte("lost"), to); err != nil {
		t.Fatal(err)
	}
	for l.Lost(Left) == before {
		runtime.Gosched()
	}
	l.Set(Left, Conditions{})
	if _, err := client.WriteTo([]byte("again"), to); err != nil {
		t.Fatal(err)
	}
	if n, _, err := server.ReadFrom(buffer); err != nil || string(buffer[:n]) != "again" {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
}

func TestAProgramOnASideReachesTheTest(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := New(t, 1)
	l.Reach(t, Right, server.Addr().String())
	var client net.Conn
	if err := within(l.names[Right], func() (err error) {
		client, err = net.Dial("tcp", server.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 5)
	if _, err := io.ReadFull(client, buffer); err != nil || string(buffer) != "hello" {
		t.Errorf("%q, %v", buffer, err)
	}
}

package access

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
)

type sink struct {
	grpc.ServerStream
	sent int
}

func (s *sink) SendMsg(any) error {
	s.sent++
	return nil
}

// A stream that lasts ends with what its reader was known by.
func TestAStreamOutlastsNoToken(t *testing.T) {
	now, gone := time.Unix(1_700_000_000, 0), error(nil)
	asked, out := 0, &sink{}
	a := &admitted{ServerStream: out, now: func() time.Time { return now }, checked: now, again: func() error {
		asked++
		return gone
	}}
	for range 10 {
		if err := a.SendMsg(nil); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(checkAgain)
	if err := a.SendMsg(nil); err != nil || asked != 1 {
		t.Fatalf("asked %d times: %v", asked, err)
	}
	now, gone = now.Add(checkAgain), ErrUnauthenticated
	if err := a.SendMsg(nil); !errors.Is(err, ErrUnauthenticated) || out.sent != 11 {
		t.Errorf("%d sent: %v", out.sent, err)
	}
}

package access_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

// shelf is a store's documents, with what may happen to them.
type shelf struct {
	*querytest.Store
	docs []store.Document
	fail error
	race int // times that another collector is faster
}

func (s *shelf) PutDocument(_ context.Context, kind store.DocumentKind, body []byte, at time.Time) (uint32, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	if s.race > 0 {
		s.race--
		s.docs = append(s.docs, store.Document{Kind: kind, Revision: uint32(len(s.docs) + 1), Applied: at, Body: next(s.docs)})
	}
	s.docs = append(s.docs, store.Document{Kind: kind, Revision: uint32(len(s.docs) + 1), Applied: at, Body: body})
	return uint32(len(s.docs)), nil
}

// next is a record of another collector.
func next(docs []store.Document) []byte {
	r := map[string]any{"sequence": len(docs) + 1, "previous": "", "time_ns": 1, "caller": "another", "action": "apply rules", "outcome": "begun"}
	if n := len(docs); n > 0 {
		r["previous"] = access.DocumentHash(docs[n-1].Body)
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return b
}

func (s *shelf) Document(_ context.Context, _ store.DocumentKind, revision uint32) (store.Document, error) {
	if revision == 0 {
		revision = uint32(len(s.docs))
	}
	if revision == 0 || int(revision) > len(s.docs) || s.docs[revision-1].Body == nil {
		return store.Document{}, store.ErrNotFound
	}
	return s.docs[revision-1], nil
}

func newShelf() (*shelf, *access.Log) {
	s := &shelf{Store: querytest.NewStore()}
	return s, access.NewLog(s, func() time.Time { return time.Unix(1_700_000_000, 0) }, slog.New(slog.DiscardHandler))
}

func change(t *testing.T, l *access.Log, outcome error) {
	t.Helper()
	ctx := access.WithCaller(t.Context(), access.Configuration())
	done, err := l.Begin(ctx, access.Change{Action: "apply rate card", Old: 1, New: 2, SHA256: "ab", Detail: "d"})
	if err != nil {
		t.Fatal(err)
	}
	done(outcome)
}

func TestAuditTellsWhoDidWhat(t *testing.T) {
	s, l := newShelf()
	change(t, l, nil)
	change(t, l, errors.New("disk full"))
	es, broken, err := l.Entries(t.Context(), 0, 0)
	if err != nil || broken != 0 || len(es) != 2 {
		t.Fatal(es, broken, err)
	}
	if es[0].Outcome != "failed: disk full" || es[1].Outcome != access.Done || es[1].Caller != "configuration" || es[1].New != 2 || es[1].Detail != "d" {
		t.Errorf("%+v", es)
	}
	if es, _, _ := l.Entries(t.Context(), 1, es[0].Sequence); len(es) != 1 || es[0].Outcome != access.Done {
		t.Errorf("before the newest: %+v", es)
	}
	if n, err := l.Verify(t.Context()); n != 4 || err != nil {
		t.Error(n, err)
	}
	// What cannot be written down, or has nobody who does it, is not done.
	s.fail = store.ErrUnavailable
	if _, err := l.Begin(access.WithCaller(t.Context(), access.Self()), access.Change{Action: "x"}); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	s.fail = nil
	if _, err := l.Begin(t.Context(), access.Change{Action: "x"}); err == nil {
		t.Error("nobody changed something")
	}
}

// Whatever is done to a record that has a successor, or to the order of records,
// shows.
func TestTamperedAuditLogs(t *testing.T) {
	for what, tamper := range map[string]func(*shelf){
		"a caller is another": func(s *shelf) {
			s.docs[2].Body = []byte(strings.Replace(string(s.docs[2].Body), "configuration", "somebody", 1))
		},
		"a record is gone":  func(s *shelf) { s.docs[2].Body = nil },
		"two change places": func(s *shelf) { s.docs[1].Body, s.docs[3].Body = s.docs[3].Body, s.docs[1].Body },
		"one is taken out": func(s *shelf) {
			s.docs = append(s.docs[:2], s.docs[3:]...)
			for i := range s.docs {
				s.docs[i].Revision = uint32(i + 1)
			}
		},
		"no JSON":          func(s *shelf) { s.docs[0].Body = []byte("{") },
		"the first is new": func(s *shelf) { s.docs[0].Body = []byte(strings.Replace(string(s.docs[0].Body), `"d"`, `"e"`, 1)) },
	} {
		s, l := newShelf()
		for range 3 {
			change(t, l, nil)
		}
		tamper(s)
		_, err := l.Verify(t.Context())
		if tampered := (*access.Tampered)(nil); !errors.As(err, &tampered) {
			t.Errorf("%s: %v", what, err)
		}
		if _, broken, err := l.Entries(t.Context(), 0, 0); err != nil || broken == 0 {
			t.Errorf("%s: the list says %d (%v)", what, broken, err)
		}
	}
}

// A record that lost a race is written again and breaks nothing.
func TestAuditOfSeveralCollectors(t *testing.T) {
	s, l := newShelf()
	change(t, l, nil)
	s.race = 2
	change(t, l, nil)
	change(t, l, nil)
	if n, err := l.Verify(t.Context()); err != nil || n < 8 {
		t.Error(n, err)
	}
	es, broken, err := l.Entries(t.Context(), 0, 0)
	mine := 0
	for _, e := range es {
		if e.Caller == "configuration" {
			mine++
		}
	}
	if err != nil || broken != 0 || mine != 3 {
		t.Errorf("%d of 3 changes, broken at %d (%v)", mine, broken, err)
	}
}

func TestWhatACollectorDiedInIsFound(t *testing.T) {
	s, l := newShelf()
	ctx := access.WithCaller(t.Context(), access.Self())
	for range 2 {
		if _, err := l.Begin(ctx, access.Change{Action: "apply rules"}); err != nil {
			t.Fatal(err)
		}
	}
	made := func(_ context.Context, e *access.Entry) (string, error) {
		if e.Sequence == 1 {
			return access.Done, nil
		}
		return access.NotMade, nil
	}
	for range 2 { // the second time there is nothing to do
		if err := l.Recover(t.Context(), time.Unix(1_700_000_001, 0), made); err != nil {
			t.Fatal(err)
		}
		es, broken, err := l.Entries(t.Context(), 0, 0)
		if err != nil || broken != 0 || len(es) != 2 || es[1].Outcome != access.Done || !strings.HasPrefix(es[0].Outcome, "failed") || len(s.docs) != 4 {
			t.Fatalf("%+v %d %v, %d records", es, broken, err, len(s.docs))
		}
	}
}

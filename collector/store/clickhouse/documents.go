package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// marks are the newest revision of each kind of document.
type marks map[store.DocumentKind]uint32

// PutDocument implements [store.Store].
func (s *Store) PutDocument(ctx context.Context, kind store.DocumentKind, body []byte, at time.Time) (uint32, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for {
		var revision uint32
		err := s.write(ctx, "put a document", func(w *writing) error {
			newest, err := s.newest(ctx, w.state, kind)
			if err != nil {
				return refused{err}
			}
			revision = newest + 1
			if err := w.document(ctx, kind, revision, at, body); err != nil {
				return err
			}
			return w.alone(ctx, kind, revision)
		})
		if !errors.Is(err, errRival) {
			return revision, err
		}
		// Both may have given way: not at the same time again.
		if err := pause(ctx, poll/2+time.Duration(rand.Int64N(int64(s.options.Grace)))); err != nil {
			return 0, unavailable("put a document", err)
		}
	}
}

func (w *writing) document(ctx context.Context, kind store.DocumentKind, revision uint32, at time.Time, body []byte) error {
	var e encoder
	e.str(string(kind))
	e.u32(revision)
	e.i64(at.UnixNano())
	e.bytes(body)
	e.u64(w.session)
	e.u32(w.seq)
	e.i64(int64(w.began))
	w.wrote = true
	return w.insert(ctx, "document", documentNames, e)
}

// newest is the newest revision of a kind, 0 where there is none.
func (s *Store) newest(ctx context.Context, st *state, kind store.DocumentKind) (n uint32, err error) {
	err = s.client.query(ctx, `SELECT max(revision) FROM document WHERE kind = `+quote(string(kind))+` AND `+st.visible(), func(d *decoder) error {
		n = d.u32()
		return d.err
	})
	return n, err
}

// Document implements [store.Store].
func (s *Store) Document(ctx context.Context, kind store.DocumentKind, revision uint32) (store.Document, error) {
	if err := s.open(); err != nil {
		return store.Document{}, err
	}
	st, err := s.readState(ctx)
	if err == nil && revision == 0 {
		revision, err = s.newest(ctx, st, kind)
	}
	if err != nil {
		return store.Document{}, unavailable("read a document", err)
	}
	d := store.Document{Kind: kind, Revision: revision}
	found, err := s.read(ctx, st, &d)
	if err != nil {
		return store.Document{}, unavailable("read a document", err)
	}
	if !found {
		return store.Document{}, fmt.Errorf("%w: %s revision %d", store.ErrNotFound, kind, revision)
	}
	return d, nil
}

// read reads a revision.
func (s *Store) read(ctx context.Context, st *state, doc *store.Document) (found bool, err error) {
	err = s.client.query(ctx, `SELECT applied, body FROM document WHERE kind = `+quote(string(doc.Kind))+` AND revision = `+number(doc.Revision)+
		` AND `+st.visible()+` LIMIT 1`, func(d *decoder) error {
		doc.Applied, doc.Body, found = time.Unix(0, d.i64()).UTC(), d.bytes(), true
		return d.err
	})
	return found, err
}

// marks reads the newest revisions.
func (s *Store) marks(ctx context.Context) (marks, error) {
	st, err := s.readState(ctx)
	if err != nil {
		return nil, err
	}
	m := make(marks)
	err = s.client.query(ctx, `SELECT kind, max(revision) FROM document WHERE `+st.visible()+` GROUP BY kind`, func(d *decoder) error {
		m[store.DocumentKind(d.str())] = d.u32()
		return d.err
	})
	return m, err
}

// Refresh implements [store.Shared].
func (s *Store) Refresh(ctx context.Context) (changed bool, err error) {
	if err := s.open(); err != nil {
		return false, err
	}
	m, err := s.marks(ctx)
	if err != nil {
		return false, unavailable("look for new documents", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = !maps.Equal(m, s.seen)
	s.seen = m
	return changed, nil
}

// journalAt is the journal of reratings that a state holds.
func (s *Store) journalAt(ctx context.Context, st *state) (*rerating.Journal, error) {
	n, err := s.newest(ctx, st, store.Reratings)
	if err != nil {
		return nil, unavailable("read the journal of reratings", err)
	}
	journal, err := s.journals.At(n, func(from uint32, add func(time.Time, []byte) error) error {
		for i := from; i <= n; i++ {
			doc := store.Document{Kind: store.Reratings, Revision: i}
			found, err := s.read(ctx, st, &doc)
			if err == nil && !found {
				err = fmt.Errorf("%w: it has no entry %d, and the last has number %d", store.ErrCorrupt, i, n)
			}
			if err == nil {
				err = add(doc.Applied, doc.Body)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return journal, unavailable("read the journal of reratings", err)
}

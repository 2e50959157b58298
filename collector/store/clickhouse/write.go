package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// writing is one write: rows under a number of their own, and an entry of the
// log that makes all of them be there at once.
type writing struct {
	store *Store
	state *state // as it was before
	entry        // as it will be

	began attribution.Second // by the servers' clock
	start time.Time          // the same by this machine's
	wrote bool               // something that others may wait for
	low   attribution.Second // no row's bucket is before it
}

// limits are times of writes. They are constants, but in tests: all collectors of
// a ledger rely on the same.
type limits struct {
	// logTime bounds how long an entry is on its way into the log: a server that
	// comes to it later leaves it out.
	logTime attribution.Second
	// lifetime is how long after its beginning a write may be logged.
	lifetime attribution.Second
	// skew is how far the servers' clocks may be apart.
	skew attribution.Second
	// keepClaims is for how long claims stay as they are: until each write is long
	// over, and each view from then.
	keepClaims attribution.Second
	// claimsStep is of what they are compacted at least.
	claimsStep attribution.Second
}

func defaultLimits() limits {
	return limits{logTime: 10, lifetime: 150, skew: 5, keepClaims: 2 * attribution.Second(rollup.Day), claimsStep: attribution.Second(rollup.Day)}
}

// now is the servers' time, not before what it really is.
func (w *writing) now() attribution.Second {
	return w.began + attribution.Second(time.Since(w.start)/time.Second) + 1
}

// doubt is a write of which is not known whether it was logged: the answer was
// lost.
type doubt struct {
	session uint64
	seq     uint32
	until   attribution.Second // the servers let it in, by their clock
}

// write runs f and logs what it wrote. After an error nothing of it is there.
func (s *Store) write(ctx context.Context, what string, f func(*writing) error) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return unavailable(what, err)
	}
	w := &writing{store: s, start: time.Now()}
	var err error
	if w.began, err = s.client.now(ctx); err == nil {
		err = s.settle(ctx, w)
	}
	if err == nil {
		w.state, err = s.readState(ctx)
	}
	if err != nil {
		return unavailable(what, err)
	}
	w.entry = s.session
	l := w.state.lane(s.options.Name)
	w.number, w.HourRolled, w.DayRolled = l.number, l.HourRolled, l.DayRolled
	w.seq++
	w.low = maxSecond
	err = f(w)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		if err = s.logged(ctx, w); err == nil {
			s.session = w.entry
			return nil
		}
	}
	if !errors.Is(err, errRefused) {
		if s.doubt == nil {
			s.abandon(ctx, w)
		}
		s.begin()
	}
	return unavailable(what, err)
}

// errRefused is wrapped by errors from before the first row was written.
var errRefused = errors.New("refused")

// refused marks an error as one from before the first row was written.
type refused struct{ error }

func (refused) Is(target error) bool { return target == errRefused }
func (r refused) Unwrap() error      { return r.error }

// logged writes the entry of the log, unless its time is over when a server
// comes to it: others rely on that. Where the answer was lost, the log tells, or
// remains in doubt.
func (s *Store) logged(ctx context.Context, w *writing) error {
	x := w.entry
	until := min(w.now()+s.limits.logTime, w.began+s.limits.lifetime)
	values := fmt.Sprintf(`toUInt64(%d), %s, toUInt32(%d), toUInt64(%d), `, x.session, quote(x.lane), x.seq, x.number) +
		list(x.times(), func(t *attribution.Second) string { return fmt.Sprintf(`toInt64('%d')`, *t) })
	_, err := s.client.write(ctx, fmt.Sprintf(`INSERT INTO log (%s) SELECT %s, toInt64(toUnixTimestamp(now())) FROM system.one WHERE toInt64(toUnixTimestamp(now())) <= %d`,
		logNames, values, until), nil)
	there, rerr := s.inLog(context.WithoutCancel(ctx), x.session, x.seq)
	switch {
	case there:
		return nil
	case err == nil && rerr == nil:
		return fmt.Errorf("it took longer than %d s", s.limits.lifetime)
	case errors.As(err, new(sent)) || rerr != nil && err == nil:
		s.doubt = &doubt{x.session, x.seq, until}
	}
	return errors.Join(err, rerr)
}

// inLog reports whether a write is in the log.
func (s *Store) inLog(ctx context.Context, session uint64, seq uint32) (there bool, err error) {
	err = s.client.query(ctx, `SELECT count() FROM log WHERE session = `+number(session)+` AND seq >= `+number(seq), func(d *decoder) error {
		there = d.u64() > 0
		return d.err
	})
	return there, err
}

// settle finds out what became of the write before, where that is in doubt: this
// lane does nothing else meanwhile, or what it folds would lack it.
func (s *Store) settle(ctx context.Context, w *writing) error {
	if s.doubt == nil {
		return nil
	}
	there, err := s.inLog(ctx, s.doubt.session, s.doubt.seq)
	if err != nil {
		return err
	}
	if !there && w.now() <= s.doubt.until+s.limits.skew {
		if err := pause(ctx, poll); err != nil {
			return err
		}
		return errors.New("whether the write before was stored is not known yet")
	}
	if !there {
		if err := s.barrier(ctx); err != nil {
			return err
		}
	}
	s.doubt = nil
	return nil
}

// barrier returns when every entry that a server took before is in the log or
// will never be: on a cluster, one that not enough replicas have yet holds up the
// next.
func (s *Store) barrier(ctx context.Context) error {
	if s.options.Cluster == "" {
		return nil
	}
	var e encoder
	e.u64(s.session.session)
	e.str(s.session.lane)
	e.u32(0)
	e.u64(0)
	for _, t := range s.session.times() {
		e.i64(int64(*t))
	}
	e.i64(0)
	return s.client.insert(ctx, "log", logNames, e)
}

// abandonTime bounds the attempt to tell others that a write has failed.
const abandonTime = 2 * time.Second

// abandon tells others that a write will never be logged. Where that fails they
// wait until its lifetime is over.
func (s *Store) abandon(ctx context.Context, w *writing) {
	if !w.wrote {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	if err := s.ended(ctx, []claimed{{w.session, w.seq, w.began}}); err != nil {
		s.log.Warn("the store: others are not told that a write failed, and may wait for it", "error", err)
	}
}

// insert adds rows of this write, where there are any.
func (w *writing) insert(ctx context.Context, table, columns string, rows encoder) error {
	if len(rows) == 0 {
		return nil
	}
	again, err := w.store.client.write(ctx, `INSERT INTO `+table+` (`+columns+`) FORMAT RowBinary`, rows)
	if err == nil && again {
		err = w.once(ctx, table, columns)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", table, err)
	}
	return nil
}

// once fails where a shard has rows of this write twice: one took them, another
// could not yet, and all were sent again. Servers mostly notice, and forget.
func (w *writing) once(ctx context.Context, table, columns string) error {
	if slices.ContainsFunc(tables, func(t tableOf) bool { return t.name == table && t.shard == oneShard }) {
		return nil
	}
	where := fmt.Sprintf(`session = %d AND seq = %d`, w.session, w.seq)
	if strings.HasPrefix(columns, "lane, ") { // of these there are many
		where += fmt.Sprintf(` AND lane = %s AND bucket >= %d`, quote(w.lane), w.low)
	}
	var twice uint64
	err := w.store.client.query(ctx, `SELECT count() FROM (SELECT count() AS n FROM `+table+` WHERE `+where+` GROUP BY `+columns+` HAVING n > 1)`, func(d *decoder) error {
		twice = d.u64()
		return d.err
	})
	if err == nil && twice > 0 {
		err = fmt.Errorf("%d rows were stored twice", twice)
	}
	return err
}

// poll is how long who waits for another waits before looking again.
const poll = 100 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/collector/store"
)

// Log is the audit log: who changed what of the ledger, when, and what came of
// it. Its records are documents of the ledger of the kind [store.Audits], in the
// order of the changes.
//
// A change has two records. [Log.Begin] writes the first before the change is
// made; where it cannot, the change is not made. What came of it is the second.
// A change between whose records the collector died is found when it starts
// again ([Log.Recover]).
//
// Each record holds the SHA-256 of the one before, as it is stored. Where
// several collectors write at once, two may follow the same record: the later
// one then has a number that is not its sequence. It counts for nothing but the
// chain, and is written again.
//
// A nil Log records nothing.
type Log struct {
	store store.Store
	now   func() time.Time
	log   *slog.Logger
	mu    sync.Mutex // a record is read and its successor written at a time
}

// NewLog makes a Log of a ledger.
func NewLog(st store.Store, now func() time.Time, log *slog.Logger) *Log {
	return &Log{store: st, now: now, log: log}
}

// Change is what is about to be done.
type Change struct {
	Action string // apply rate card, …
	// Revisions of what is changed; 0: none.
	Old, New uint32
	SHA256   string // of the document, hex; "": there is none
	Detail   string
}

// DocumentHash is the hash of a document as it is recorded.
func DocumentHash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// The outcomes of a change.
const (
	Begun  = "begun" // not known
	Done   = "done"
	failed = "failed: "
	// Those of changes that a collector died in.
	NotMade = failed + "the collector stopped before it was made"
	Unknown = "not known: the collector stopped meanwhile"
)

// record is a document of the log.
type record struct {
	Sequence uint32 `json:"sequence"`
	Previous string `json:"previous"` // SHA-256 of the record before, hex; "" at the first
	TimeNs   int64  `json:"time_ns"`
	Caller   string `json:"caller,omitempty"`
	Method   string `json:"method,omitempty"`
	Action   string `json:"action,omitempty"`
	Old      uint32 `json:"old_revision,omitempty"`
	New      uint32 `json:"new_revision,omitempty"`
	SHA256   string `json:"sha256,omitempty"`
	Detail   string `json:"detail,omitempty"`
	// Of is the record whose outcome this one tells; 0: it is a change.
	Of      uint32 `json:"of,omitempty"`
	Outcome string `json:"outcome"`
}

const (
	// maxDetail bounds what of a detail or failure is kept, in bytes.
	maxDetail = 2000
	// maxConflicts is how often a record is written again that another
	// collector was faster with.
	maxConflicts = 20
)

// Begin records that a change begins, made by the caller behind the context; it
// is called where the store may be written. The change may be made if there is
// no error, and then what came of it is told to the function: nil, or why it
// was not made.
func (l *Log) Begin(ctx context.Context, c Change) (func(error), error) {
	if l == nil {
		return func(error) {}, nil
	}
	who := CallerOf(ctx)
	if who == nil {
		return nil, errors.New("BUG: access: nobody makes this change: " + c.Action)
	}
	r := record{
		Caller: who.Name, Method: string(who.Method), Action: c.Action, Old: c.Old, New: c.New, SHA256: c.SHA256,
		Detail: cut(c.Detail), Outcome: Begun,
	}
	digest, err := l.append(ctx, &r)
	if err != nil {
		return nil, fmt.Errorf("write down who changes what: %w", err)
	}
	l.log.Info("audit", "sequence", r.Sequence, "caller", r.Caller, "method", r.Method, "action", r.Action,
		"old_revision", r.Old, "new_revision", r.New, "sha256", r.SHA256, "detail", r.Detail, "outcome", r.Outcome, "digest", digest)
	return func(err error) { l.end(context.WithoutCancel(ctx), &r, outcomeOf(err)) }, nil
}

func outcomeOf(err error) string {
	if err == nil {
		return Done
	}
	return cut(failed + err.Error())
}

func cut(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}

// end records what came of a change. Where it cannot, the change is there, and
// Recover finds it.
func (l *Log) end(ctx context.Context, of *record, outcome string) {
	r := record{Of: of.Sequence, Outcome: outcome}
	digest, err := l.append(ctx, &r)
	if err != nil {
		l.log.Error("what came of a change could not be written down", "sequence", of.Sequence, "action", of.Action, "outcome", outcome, "error", err)
		return
	}
	l.log.Info("audit", "sequence", r.Sequence, "of", r.Of, "caller", of.Caller, "action", of.Action, "outcome", outcome, "digest", digest)
}

// append writes the next record. It fills in what makes it that.
func (l *Log) append(ctx context.Context, r *record) (digest string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range maxConflicts {
		at := l.now()
		r.TimeNs, r.Sequence, r.Previous = at.UnixNano(), 1, ""
		last, err := l.store.Document(ctx, store.Audits, 0)
		switch {
		case err == nil:
			r.Sequence, r.Previous = last.Revision+1, DocumentHash(last.Body)
		case !errors.Is(err, store.ErrNotFound):
			return "", err
		}
		body, err := json.Marshal(r)
		if err != nil {
			return "", err
		}
		got, err := l.store.PutDocument(ctx, store.Audits, body, at)
		if err != nil {
			return "", err
		}
		if got == r.Sequence {
			return DocumentHash(body), nil
		}
	}
	return "", fmt.Errorf("%w: other collectors write to the audit log all the time", store.ErrUnavailable)
}

// Entry is a change as the log tells of it.
type Entry struct {
	Sequence uint32
	Time     time.Time
	Caller   string
	Method   Method
	Change
	Outcome string
	Digest  string // of the record of its beginning
}

const (
	// entries is how many are listed where nobody says, and at most.
	entries    = 100
	maxEntries = 1000
	// maxRead bounds the records that one listing reads.
	maxRead = 10_000
)

// Entries lists changes, newest first: at most limit (0: 100), and with lower
// sequences than before (0: all). broken is the newest record that was read and
// does not follow from the one before; 0: all do.
func (l *Log) Entries(ctx context.Context, limit int, before uint32) (out []Entry, broken uint32, err error) {
	switch {
	case limit <= 0:
		limit = entries
	case limit > maxEntries:
		limit = maxEntries
	}
	outcomes := map[uint32]string{}
	var next *link
	err = l.backwards(ctx, maxRead, func(k *link) bool {
		if broken == 0 {
			broken = max(k.wrong(), next.after(k))
		}
		next = k
		switch r := &k.record; {
		case !k.counts():
		case r.Of != 0:
			if outcomes[r.Of] == "" { // the newest: a change may outlast what Recover waits for
				outcomes[r.Of] = r.Outcome
			}
		case before == 0 || r.Sequence < before:
			out = append(out, k.entry(outcomes[r.Sequence]))
		}
		return len(out) < limit
	})
	if errors.Is(err, store.ErrNotFound) { // in the middle
		return out, max(broken, next.revision), nil
	}
	return out, broken, err
}

// link is a record as it is stored.
type link struct {
	record
	revision uint32
	digest   string
	bad      bool // it cannot be read
}

// counts reports whether it is what it says: the record of its number.
func (k *link) counts() bool { return !k.bad && k.Sequence == k.revision }

// wrong is the record's number where it cannot be right by itself, else 0.
func (k *link) wrong() uint32 {
	if k.bad || k.Sequence > k.revision || k.Sequence == 0 {
		return k.revision
	}
	return 0
}

// after is the number of k where it does not follow from the record before it,
// else 0. A record that lost a race follows from an earlier one.
func (k *link) after(before *link) uint32 {
	if k == nil || k.bad || k.Sequence != k.revision || k.Previous == before.digest {
		return 0
	}
	return k.revision
}

func (k *link) entry(outcome string) Entry {
	if outcome == "" {
		outcome = k.Outcome
	}
	return Entry{
		Sequence: k.Sequence, Time: time.Unix(0, k.TimeNs).UTC(), Caller: k.Caller, Method: Method(k.Method),
		Change:  Change{Action: k.Action, Old: k.Old, New: k.New, SHA256: k.SHA256, Detail: k.Detail},
		Outcome: outcome, Digest: k.digest,
	}
}

// backwards reads records from the newest on while f wants more.
func (l *Log) backwards(ctx context.Context, most int, f func(*link) bool) error {
	if l == nil {
		return nil
	}
	newest, err := l.store.Document(ctx, store.Audits, 0)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	for doc := newest; err == nil; doc, err = l.store.Document(ctx, store.Audits, doc.Revision-1) {
		most--
		if !f(read(doc)) || most == 0 || doc.Revision <= 1 {
			return nil
		}
	}
	return err
}

func read(doc store.Document) *link {
	k := &link{revision: doc.Revision, digest: DocumentHash(doc.Body)}
	d := json.NewDecoder(bytes.NewReader(doc.Body))
	d.DisallowUnknownFields()
	k.bad = d.Decode(&k.record) != nil
	return k
}

// Verify reads the whole log and checks that every record follows from the one
// before. The error says at which it does not.
func (l *Log) Verify(ctx context.Context) (records int64, err error) {
	var next *link
	var broken error
	err = l.backwards(ctx, 0, func(k *link) bool {
		records++
		if n := max(k.wrong(), next.after(k)); n != 0 && broken == nil {
			broken = fmt.Errorf("record %d of the audit log does not follow from record %d: one of them is not as it was written", n, n-1)
		}
		next = k
		return ctx.Err() == nil
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return records, &Tampered{fmt.Sprintf("record %d of the audit log is gone", next.revision-1)}
	case err != nil:
		return records, err
	case ctx.Err() != nil:
		return records, context.Cause(ctx)
	case broken != nil:
		return records, &Tampered{broken.Error()}
	case next != nil && next.counts() && next.Previous != "":
		return records, &Tampered{"the audit log does not begin at its beginning"}
	}
	return records, nil
}

// Tampered says what is not as it was written.
type Tampered struct{ What string }

// Error says it.
func (t *Tampered) Error() string { return t.What }

// Recover records the outcome of changes that a collector died in, which are
// older than a time: outcome finds it out.
func (l *Log) Recover(ctx context.Context, older time.Time, outcome func(context.Context, *Entry) (string, error)) error {
	if l == nil {
		return nil
	}
	known := map[uint32]bool{}
	var open []Entry
	err := l.backwards(ctx, maxEntries, func(k *link) bool {
		switch {
		case !k.counts():
		case k.Of != 0:
			known[k.Of] = true
		case k.Outcome == Begun && !known[k.Sequence] && !time.Unix(0, k.TimeNs).After(older):
			open = append(open, k.entry(""))
		}
		return true
	})
	if err != nil {
		return err
	}
	for i := len(open) - 1; i >= 0; i-- {
		came, err := outcome(ctx, &open[i])
		if err != nil {
			return err
		}
		l.end(ctx, &record{Sequence: open[i].Sequence, Caller: open[i].Caller, Action: open[i].Action}, came)
	}
	return nil
}

// Latest is the newest entry of an action, nil where none of the newest thousand
// records is one.
func (l *Log) Latest(ctx context.Context, action string) (found *Entry, err error) {
	err = l.backwards(ctx, maxEntries, func(k *link) bool {
		if k.counts() && k.Of == 0 && k.Action == action {
			e := k.entry("")
			found = &e
		}
		return found == nil
	})
	return found, err
}

package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/ingest"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// documents are the rate card and the mapping rules in force, and all earlier
// revisions in the store. What is in force is an immutable snapshot behind an
// atomic pointer; only the store's writer replaces it.
type documents struct {
	store store.Store
	audit *access.Log // told of every change before it is made
	now   func() time.Time
	log   *slog.Logger
	// do runs a function where the store may be written.
	do func(context.Context, func(context.Context) error) error
	// applied is told of a new rate card.
	applied func(*rating.Card)

	card    atomic.Pointer[rating.Card] // nil: none yet
	rules   atomic.Pointer[mapping.Rules]
	mapping atomic.Pointer[store.Mapping]
	names   atomic.Pointer[mapping.Names]
	journal atomic.Pointer[rerating.Journal]
}

var _ api.Documents = (*documents)(nil)

// openDocuments reads what is in force, applies what files newly say, and gives
// the rules to the store. The store has no other writer yet.
func openDocuments(ctx context.Context, st store.Store, audit *access.Log, now func() time.Time, log *slog.Logger, cardFile, rulesFile string) (*documents, error) {
	d := &documents{store: st, audit: audit, now: now, log: log, applied: func(*rating.Card) {}}
	d.do = func(ctx context.Context, f func(context.Context) error) error { return f(ctx) }
	err := st.View(ctx, func(r store.Reader) error {
		j, err := r.Journal(ctx)
		d.journal.Store(j)
		return err
	})
	if err != nil {
		return nil, err
	}
	card, err := d.RateCard(ctx, 0)
	switch {
	case err == nil:
		d.card.Store(card)
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	rules, err := d.storedRules(ctx, 0)
	switch {
	case errors.Is(err, store.ErrNotFound):
		rules = mapping.Default()
	case err != nil:
		return nil, err
	}
	if err := d.enforce(ctx, rules); err != nil {
		return nil, err
	}
	if err := d.applyCardFile(ctx, cardFile); err != nil {
		return nil, err
	}
	if err := d.applyRulesFile(ctx, rulesFile); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *documents) applyCardFile(ctx context.Context, file string) error {
	if file == "" {
		return nil
	}
	source, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: rate_card: %w", ErrConfig, err)
	}
	card, err := rating.Parse(source)
	if err != nil {
		return fmt.Errorf("%w: rate_card: %s: %w", ErrConfig, file, err)
	}
	var inForce []byte
	if have := d.card.Load(); have != nil {
		if have.Currency != card.Currency {
			return fmt.Errorf("%w: rate_card: %s: the ledger counts in %s and the card in %s: a ledger has one currency", ErrConfig, file, have.Currency, card.Currency)
		}
		inForce = cardText(have)
	}
	return d.follow(ctx, store.RateCardFiles, file, cardText(card), inForce, func() error {
		_, err := d.ApplyRateCard(ctx, card)
		return err
	})
}

func (d *documents) applyRulesFile(ctx context.Context, file string) error {
	if file == "" {
		return nil
	}
	source, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: rules: %w", ErrConfig, err)
	}
	rules, err := mapping.Parse(source)
	if err != nil {
		return fmt.Errorf("%w: rules: %s: %w", ErrConfig, file, err)
	}
	have := *d.rules.Load()
	have.Revision, rules.Revision = 0, 0
	inForce, err := have.Marshal()
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	text, err := rules.Marshal()
	if err != nil {
		return fmt.Errorf("rules: %s: %w", file, err)
	}
	return d.follow(ctx, store.RuleFiles, file, text, inForce, func() error {
		_, err := d.ApplyRules(ctx, rules)
		return err
	})
}

// follow applies what a file says, unless it said the same when it was last
// followed: what was applied by other means since then stays in force over a
// file that nobody has changed, however often the collector starts again.
func (d *documents) follow(ctx context.Context, kind store.DocumentKind, file string, text, inForce []byte, apply func() error) error {
	last, err := d.store.Document(ctx, kind, 0)
	switch {
	case err == nil && bytes.Equal(last.Body, text):
		if !bytes.Equal(inForce, text) {
			d.log.Warn("a file is not what is in force: another revision was applied after it, and stays",
				"file", file, "what", string(kind), "hint", "change the file to have it applied, or take it out of the configuration")
		}
		return nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	if !bytes.Equal(inForce, text) {
		if err := apply(); err != nil {
			return err
		}
	}
	_, err = d.store.PutDocument(ctx, kind, text, d.now())
	return err
}

// cardText is what a card says, whichever revision it is.
func cardText(card *rating.Card) []byte {
	c := *card
	c.Revision = 0
	return rating.Format(&c)
}

// RateCard returns a revision, 0 for the one in force. What was rerated has
// revisions of its own.
func (d *documents) RateCard(ctx context.Context, revision uint32) (*rating.Card, error) {
	if id, ok := rerating.ID(revision); ok {
		card := d.journal.Load().Card(id)
		if card == nil {
			// It may be durable without having been told of.
			if err := d.store.View(ctx, func(r store.Reader) error {
				j, err := r.Journal(ctx)
				card = j.Card(id)
				return err
			}); err != nil {
				return nil, err
			}
		}
		if card == nil {
			return nil, fmt.Errorf("%w: rerating %d", store.ErrNotFound, id)
		}
		return card, nil
	}
	if card := d.card.Load(); card != nil && (revision == 0 || revision == card.Revision) {
		return card, nil
	}
	doc, err := d.store.Document(ctx, store.RateCards, revision)
	if err != nil {
		return nil, err
	}
	card, err := rating.Parse(doc.Body)
	if err != nil {
		return nil, fmt.Errorf("stored rate card %d: %w", doc.Revision, err)
	}
	card.Revision = doc.Revision
	return card, nil
}

// ApplyRateCard makes a valid card the next revision and returns it.
func (d *documents) ApplyRateCard(ctx context.Context, card *rating.Card) (*rating.Card, error) {
	next := *card
	err := d.do(ctx, func(ctx context.Context) error {
		revision, err := d.put(ctx, auditRateCard, store.RateCards, cardText(card))
		if err != nil {
			return err
		}
		next.Revision = revision
		d.card.Store(&next)
		d.applied(&next)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store the rate card: %w", err)
	}
	return &next, nil
}

// put makes a body the next revision of a kind, and has that on record first.
func (d *documents) put(ctx context.Context, action string, kind store.DocumentKind, body []byte) (uint32, error) {
	last, err := d.store.Document(ctx, kind, 0)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	done, err := d.audit.Begin(ctx, access.Change{Action: action, Old: last.Revision, New: last.Revision + 1, SHA256: access.DocumentHash(body)})
	if err != nil {
		return 0, err
	}
	revision, err := d.store.PutDocument(ctx, kind, body, d.now())
	done(err)
	return revision, err
}

// Rules returns a revision, 0 for the one in force.
func (d *documents) Rules(ctx context.Context, revision uint32) (*mapping.Rules, error) {
	if rules := d.rules.Load(); revision == 0 || revision == rules.Revision {
		return rules, nil
	}
	return d.storedRules(ctx, revision)
}

func (d *documents) storedRules(ctx context.Context, revision uint32) (*mapping.Rules, error) {
	doc, err := d.store.Document(ctx, store.RuleSets, revision)
	if err != nil {
		return nil, err
	}
	rules, err := mapping.Parse(doc.Body)
	if err != nil {
		return nil, fmt.Errorf("stored rules %d: %w", doc.Revision, err)
	}
	rules.Revision = doc.Revision
	return rules, nil
}

// ApplyRules makes valid rules the next revision and returns it.
func (d *documents) ApplyRules(ctx context.Context, rules *mapping.Rules) (*mapping.Rules, error) {
	next := *rules
	next.Revision = 0
	body, err := next.Marshal()
	if err != nil {
		return nil, fmt.Errorf("store the rules: %w", err)
	}
	err = d.do(ctx, func(ctx context.Context) error {
		revision, err := d.put(ctx, auditRules, store.RuleSets, body)
		if err != nil {
			return err
		}
		next.Revision = revision
		// It is durable, so it comes into force even if nobody waits any more.
		return d.enforce(context.WithoutCancel(ctx), &next)
	})
	if err != nil {
		return nil, fmt.Errorf("store the rules: %w", err)
	}
	return &next, nil
}

// enforce gives rules to the store and to queries. Between the two a query may
// see stored owners by the new rules and open chunks by the old.
func (d *documents) enforce(ctx context.Context, rules *mapping.Rules) error {
	m := rules.Compile()
	if err := d.store.SetMapping(ctx, m); err != nil {
		return err
	}
	d.rules.Store(rules)
	d.mapping.Store(&m)
	d.names.Store(rules.Names())
	return nil
}

// serve has everything that is applied from now on written by the ingest
// server's writer, and given to its streams.
func (d *documents) serve(s *ingest.Server) {
	d.do = s.Do
	d.applied = func(c *rating.Card) { s.SetRateCard(wire.EncodeRateCard(c)) }
	if card := d.card.Load(); card != nil {
		d.applied(card)
	}
}

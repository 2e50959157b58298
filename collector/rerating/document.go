package rerating

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// document is an entry as it is stored, beside its number and its time.
type document struct {
	From         int64  `json:"from"`
	To           int64  `json:"to"`
	Reason       string `json:"reason,omitempty"`
	Card         string `json:"card,omitempty"` // YAML
	CardRevision uint32 `json:"card_revision,omitempty"`
	Undoes       uint32 `json:"undoes,omitempty"`
	Currency     string `json:"currency"`
	CostBefore   string `json:"cost_before,omitempty"`
	CostAfter    string `json:"cost_after,omitempty"`
}

// Marshal is an entry as it is stored: all but its number and its time.
func (e *Entry) Marshal() ([]byte, error) {
	d := document{
		From: int64(e.From), To: int64(e.To), Reason: e.Reason, Undoes: e.Undoes,
		Currency: e.Currency, CostBefore: e.CostBefore, CostAfter: e.CostAfter,
	}
	if e.Card != nil {
		card := *e.Card
		d.CardRevision, card.Revision = card.Revision, 0
		d.Card = string(rating.Format(&card))
	}
	body, err := json.Marshal(d)
	if err == nil && len(body) > MaxDocument {
		return nil, fmt.Errorf("%w: its rate card and reason take %d bytes, %d may be kept: leave out prices that it does not need", ErrInvalid, len(body), MaxDocument)
	}
	return body, err
}

// Unmarshal is the inverse of Marshal.
func Unmarshal(id uint32, applied time.Time, body []byte) (Entry, error) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return Entry{}, fmt.Errorf("stored rerating %d: %w", id, err)
	}
	e := Entry{
		ID: id, Applied: applied, From: attribution.Second(d.From), To: attribution.Second(d.To), Reason: d.Reason, Undoes: d.Undoes,
		Currency: d.Currency, CostBefore: d.CostBefore, CostAfter: d.CostAfter,
	}
	if d.Card != "" {
		card, err := rating.Parse([]byte(d.Card))
		if err != nil {
			return Entry{}, fmt.Errorf("stored rerating %d: %w", id, err)
		}
		card.Revision = d.CardRevision
		e.Card = card
	}
	return e, nil
}

// Append is the journal with one more stored entry, which is the next.
func (j *Journal) Append(applied time.Time, body []byte) (*Journal, error) {
	e, err := Unmarshal(j.Next(), applied, body)
	if err != nil {
		return nil, err
	}
	return j.With(e)
}

package opencost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"path"
	"strconv"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Config is what a Handler needs.
type Config struct {
	Query *query.Engine
	// Currency is the ledger's, "" while it has none. It is told in the
	// envelope.
	Currency func() string
	Now      func() time.Time
	Log      *slog.Logger
}

// Handler answers OpenCost's allocation API. Any number of requests may be
// answered at once; the engine bounds how many ask.
type Handler struct {
	cfg Config
	mux *http.ServeMux
}

// New makes a Handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg, mux: http.NewServeMux()}
	for _, prefix := range []string{"", "/model"} {
		h.mux.HandleFunc("GET "+prefix+"/allocation", h.serve(writeSets))
		h.mux.HandleFunc("GET "+prefix+"/allocation/compute", h.serve(writeSets))
		h.mux.HandleFunc("GET "+prefix+"/allocation/summary", h.serve(writeSummary))
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "there is no "+strconv.QuoteToASCII(r.URL.Path)+" here: want GET /allocation, /allocation/compute or /allocation/summary")
	})
	return h
}

// Paths are the patterns that a Handler answers, for a mux that has others.
func Paths() []string {
	return []string{"GET /allocation", "GET /allocation/", "GET /model/allocation", "GET /model/allocation/"}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if clean := path.Clean("/" + r.URL.Path); clean != r.URL.Path {
		// kubectl-cost asks for //allocation/compute.
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = clean, ""
	}
	h.mux.ServeHTTP(w, r)
}

type writer func(*bufio.Writer, *plan, []*set)

func (h *Handler) serve(write writer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := parseRequest(r.URL.RawQuery, h.cfg.Now())
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		p := newPlan(req)
		sets, err := h.answer(r.Context(), p)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		out := bufio.NewWriterSize(w, 64<<10)
		_, _ = out.WriteString(`{"code":200,"status":"success"`)
		if h.cfg.Currency != nil {
			if c := h.cfg.Currency(); c != "" {
				_, _ = fmt.Fprintf(out, `,"currency":%s`, text(c))
			}
		}
		if unpriced := unpriced(sets); unpriced.Sign() > 0 {
			_, _ = fmt.Fprintf(out, `,"warning":%s`, text(quotient(unpriced, hourNanos)+" GPU-hours have no price and are in no cost"))
		}
		_, _ = out.WriteString(`,"data":`)
		write(out, p, sets)
		_, _ = out.WriteString("}\n")
		_ = out.Flush() // the asker may be gone
	}
}

// errNarrowed is the answer to those who see a part of the ledger: shares of
// what they do not see would be wrong, or tell of it.
var errNarrowed = errors.New("idle and shared costs are those of all: you see a part of the ledger, so leave shareIdle, shareNamespaces and shareLabels out")

// answer asks for all sets in one state of the ledger.
func (h *Handler) answer(ctx context.Context, p *plan) (out []*set, err error) {
	err = h.cfg.Query.Snapshot(ctx, 0, 0, func(ctx context.Context, s *query.Snapshot) error {
		if s.Narrowed() && (p.shareIdle || p.share) {
			return errNarrowed
		}
		// Durations end at the minute that it is. Where they begin before
		// minutes are kept, they end at the hour, or the day.
		var err error
		for _, unit := range []int64{minute, hour, day} {
			w, bad := p.window.ending(h.cfg.Now(), unit)
			if bad != nil {
				return bad
			}
			out, err = p.sets(ctx, h.cfg.Query, s, w)
			if p.window.length == 0 || !errors.Is(err, store.ErrTooFine) {
				break
			}
		}
		return err
	})
	return out, err
}

func (p *plan) sets(ctx context.Context, e *query.Engine, s *query.Snapshot, w window) ([]*set, error) {
	windows, err := w.sets(p.step, p.period)
	if err != nil {
		return nil, err
	}
	out := make([]*set, 0, len(windows))
	items := 0
	for _, w := range windows {
		x := &set{window: w, begin: max(w.from, s.From), end: min(w.to, s.To)}
		out = append(out, x)
		if x.begin >= x.end {
			continue // nothing was stored then
		}
		rows, err := s.Query(ctx, &store.Query{From: w.from, To: w.to, GroupBy: p.dims, Filters: p.filters})
		if err != nil {
			part := *s
			part.From, part.To = w.from, w.to
			return nil, e.Explain(ctx, err, &part, 0)
		}
		x.items = p.page(p.items(rows))
		if items += len(x.items); items > query.MaxRows {
			return nil, query.TooMany(items)
		}
	}
	return out, nil
}

// page is the part of a set that was asked for.
func (p *plan) page(all []*item) []*item {
	all = all[min(p.offset, len(all)):]
	if p.limit > 0 {
		all = all[:min(p.limit, len(all))]
	}
	return all
}

func unpriced(sets []*set) *big.Int {
	sum := new(big.Int)
	for _, s := range sets {
		for _, it := range s.items {
			sum.Add(sum, &it.unpriced)
		}
	}
	return sum
}

// writeSets writes [{name: allocation, …}, …], a set each.
func writeSets(out *bufio.Writer, p *plan, sets []*set) {
	separator := byte('[')
	for _, s := range sets {
		_ = out.WriteByte(separator)
		writeItems(out, p, s)
		separator = ','
	}
	_ = out.WriteByte(']')
}

// writeSummary writes OpenCost's summary, whose step is in nanoseconds.
func writeSummary(out *bufio.Writer, p *plan, sets []*set) {
	first, last := sets[0], sets[len(sets)-1]
	_, _ = fmt.Fprintf(out, `{"step":%d,"window":%s,"sets":`, int64(first.to-first.from)*attribution.WindowNanos, window{from: first.from, to: last.to}.json())
	separator := byte('[')
	for _, s := range sets {
		_ = out.WriteByte(separator)
		separator = ','
		_, _ = fmt.Fprintf(out, `{"window":%s,"allocations":`, s.json())
		writeItems(out, p, s)
		_ = out.WriteByte('}')
	}
	_, _ = out.WriteString("]}")
}

func writeItems(out *bufio.Writer, p *plan, s *set) {
	_ = out.WriteByte('{')
	for i, it := range s.items {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		_, _ = out.WriteString(text(it.name))
		_ = out.WriteByte(':')
		_, _ = out.WriteString(it.json(p, s))
	}
	_ = out.WriteByte('}')
}

// fail answers what went wrong. What the asker can't cure is for the log.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, query.ErrInvalid), errors.Is(err, query.ErrTooMany), errors.Is(err, store.ErrTooMany),
		errors.Is(err, store.ErrTooFine), errors.Is(err, store.ErrBadQuery):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, errNarrowed):
		refuse(w, http.StatusForbidden, err.Error())
	case errors.Is(err, context.Canceled):
		refuse(w, 499, "the request was cancelled") // nobody reads it
	case errors.Is(err, query.ErrBusy), errors.Is(err, store.ErrUnavailable):
		refuse(w, http.StatusServiceUnavailable, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		refuse(w, http.StatusGatewayTimeout, err.Error())
	default:
		h.cfg.Log.Error("a question of OpenCost's API failed", "path", r.URL.Path, "error", err)
		refuse(w, http.StatusInternalServerError, "the ledger could not be asked; the collector's log says why")
	}
}

// refuse writes OpenCost's error.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, fmt.Sprintf(`{"code":%d,"message":%s}`+"\n", status, text(message)))
}

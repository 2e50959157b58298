package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/focus"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// The formats of an export.
const (
	FormatCSV     = "focus-csv"
	FormatParquet = "focus-parquet"
)

// The trailers of an export: what its file holds, once it is whole.
const (
	TrailerRows     = "gpuledger-rows"
	TrailerFrom     = "gpuledger-from"     // Unix second, as answered
	TrailerTo       = "gpuledger-to"       // likewise
	TrailerCost     = "gpuledger-cost"     // sum of EffectiveCost, decimal text
	TrailerCurrency = "gpuledger-currency" // of it
	TrailerUnpriced = "gpuledger-unpriced" // ns without a price, which are in no row
	TrailerAveraged = "gpuledger-averaged" // charges whose unit price is an average
)

// trailers are all of them.
var trailers = [...]string{TrailerRows, TrailerFrom, TrailerTo, TrailerCost, TrailerCurrency, TrailerUnpriced, TrailerAveraged}

const (
	// exportMessage is how much of a file one message carries.
	exportMessage = 256 << 10
	// maxExporting is how many files are written at once: each holds a charge
	// period's rows.
	maxExporting = 2
)

// Export writes a file. What it holds comes in the trailers; without them the
// file is not whole.
func (s *Server) Export(req *pb.ExportRequest, stream grpc.ServerStreamingServer[httpbody.HttpBody]) error {
	kind, ok := map[string]string{FormatCSV: "text/csv; charset=utf-8; header=present", FormatParquet: "application/vnd.apache.parquet"}[req.GetFormat()]
	if !ok {
		return s.fail(query.Invalid("format %q: want %s or %s", req.GetFormat(), FormatCSV, FormatParquet))
	}
	select {
	case s.exporting <- struct{}{}:
		defer func() { <-s.exporting }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d files are being written already: try again when one is done", maxExporting)
	}
	currency, err := s.currency(stream.Context())
	if err != nil {
		return s.fail(err)
	}
	out := bufio.NewWriterSize(&messages{stream: stream, kind: kind}, exportMessage)
	var w focus.Writer = focus.NewCSV(out)
	if req.GetFormat() == FormatParquet {
		w = focus.NewParquet(out)
	}
	sum, err := focus.Export(stream.Context(), s.cfg.Query, pastCards{s}, &focus.Request{
		From: attribution.Second(req.GetFrom()), To: attribution.Second(req.GetTo()), Step: req.GetStep(), AllocateBy: req.GetAllocateBy(),
		Names: focus.Names{
			BillingAccountID: req.GetBillingAccountId(), BillingAccountName: req.GetBillingAccountName(),
			Provider: req.GetProvider(), InvoiceIssuer: req.GetInvoiceIssuer(), Currency: currency,
		},
	}, w)
	if err != nil {
		return s.fail(err)
	}
	if err := w.Close(); err != nil {
		return s.fail(err)
	}
	if err := out.Flush(); err != nil {
		return s.fail(err)
	}
	stream.SetTrailer(metadata.Pairs(
		TrailerRows, strconv.FormatInt(sum.Rows, 10), TrailerFrom, strconv.FormatInt(int64(sum.From), 10), TrailerTo, strconv.FormatInt(int64(sum.To), 10),
		TrailerCost, money.Text(&sum.Cost), TrailerCurrency, currency, TrailerUnpriced, sum.Unpriced.String(), TrailerAveraged, strconv.FormatInt(sum.Averaged, 10),
	))
	return nil
}

// messages sends what is written to it. The first message says what it is.
type messages struct {
	stream grpc.ServerStreamingServer[httpbody.HttpBody]
	kind   string
}

func (m *messages) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n := min(len(b)-sent, exportMessage)
		// gRPC may look at a message later, when the writer has used b again.
		if err := m.stream.Send(&httpbody.HttpBody{ContentType: m.kind, Data: bytes.Clone(b[sent : sent+n])}); err != nil {
			return sent, err
		}
		m.kind = ""
		sent += n
	}
	return len(b), nil
}

// pastCards finds the card behind any price ever charged.
type pastCards struct{ s *Server }

func (p pastCards) RateCard(ctx context.Context, revision uint32) (*rating.Card, error) {
	id, rerated := rerating.ID(revision)
	if !rerated {
		return p.s.cfg.Documents.RateCard(ctx, revision)
	}
	if p.s.cfg.Reratings == nil {
		return nil, store.ErrNotFound
	}
	j, err := p.s.cfg.Reratings.Journal(ctx)
	if err != nil {
		return nil, err
	}
	if card := j.Card(id); card != nil {
		return card, nil
	}
	return nil, store.ErrNotFound
}

// exportFile answers GET /v1/export with the file itself. The gateway would put
// a line break between messages, which no Parquet file survives.
func exportFile(client pb.LedgerClient) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req pb.ExportRequest
		if err := runtime.PopulateQueryParameters(&req, r.URL.Query(), utilities.NewDoubleArray(nil)); err != nil {
			refuse(w, http.StatusBadRequest, codes.InvalidArgument, err.Error())
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel() // ends the call if the asker stops reading
		stream, err := client.Export(ctx, &req)
		if err != nil {
			refuseStatus(w, err)
			return
		}
		first, err := stream.Recv()
		if err != nil {
			refuseStatus(w, err)
			return
		}
		h := w.Header()
		h.Set("Content-Type", first.GetContentType())
		h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s"`, fileName(&req)))
		for _, t := range trailers {
			h.Add("Trailer", t)
		}
		for m := first; ; {
			if _, err := w.Write(m.GetData()); err != nil {
				return
			}
			if m, err = stream.Recv(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				// Half a file must not look like a whole one.
				panic(http.ErrAbortHandler)
			}
		}
		for _, t := range trailers {
			if v := stream.Trailer().Get(t); len(v) == 1 {
				h.Set(t, v[0])
			}
		}
	})
}

// refuseStatus answers an error of a call as the gateway does.
func refuseStatus(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	refuse(w, runtime.HTTPStatusFromCode(s.Code()), s.Code(), s.Message())
}

// fileName is what the file is called where it is saved.
func fileName(req *pb.ExportRequest) string {
	ext := "csv"
	if req.GetFormat() == FormatParquet {
		ext = "parquet"
	}
	if req.GetFrom() == 0 && req.GetTo() == 0 {
		return "gpuledger-focus." + ext
	}
	day := func(s int64) string { return time.Unix(s, 0).UTC().Format("2006-01-02T1504Z") }
	return fmt.Sprintf("gpuledger-focus-%s-%s.%s", day(req.GetFrom()), day(req.GetTo()), ext)
}

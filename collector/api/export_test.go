package api_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/focus/validate"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// collect is an export's stream that keeps its bytes.
type collect struct {
	grpc.ServerStream
	ctx     context.Context
	body    bytes.Buffer
	kind    string
	largest int
	trailer metadata.MD
	fail    error // of Send
}

func (c *collect) Context() context.Context  { return c.ctx }
func (c *collect) SetTrailer(md metadata.MD) { c.trailer = md }
func (c *collect) Send(m *httpbody.HttpBody) error {
	if c.fail != nil {
		return c.fail
	}
	if c.body.Len() == 0 {
		c.kind = m.GetContentType()
	}
	c.largest = max(c.largest, len(m.GetData()))
	c.body.Write(m.GetData())
	return nil
}

// The file over HTTP is byte for byte the one over gRPC, and is valid, in both
// formats: nothing comes between its messages.
func TestExportIsTheFile(t *testing.T) {
	f := newFixture(t)
	if _, err := f.docs.ApplyRateCard(t.Context(), card()); err != nil {
		t.Fatal(err)
	}
	rep, err := f.server.Report(t.Context(), &pb.ReportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	cost := rep.GetTotal().GetSum().GetCost()
	for format, want := range map[string]struct{ kind, name string }{
		api.FormatCSV:     {"text/csv; charset=utf-8; header=present", "gpuledger-focus.csv"},
		api.FormatParquet: {"application/vnd.apache.parquet", "gpuledger-focus.parquet"},
	} {
		direct := &collect{ctx: t.Context()}
		req := &pb.ExportRequest{Format: format, Step: 3600, AllocateBy: []string{"pod", "label:app", "team"}}
		if err := f.server.Export(req, direct); err != nil {
			t.Fatal(err)
		}
		resp, body := get(t, f.http, "/v1/export?step=3600&allocate_by=pod&allocate_by=label:app&allocate_by=team&format="+format)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != want.kind ||
			resp.Header.Get("Content-Disposition") != `attachment; filename="`+want.name+`"` {
			t.Errorf("%s: %d %v", format, resp.StatusCode, resp.Header)
		}
		if !bytes.Equal(body, direct.body.Bytes()) || direct.kind != want.kind {
			t.Errorf("%s: HTTP gives %d bytes, gRPC %d of %s", format, len(body), direct.body.Len(), direct.kind)
		}
		for _, trailer := range []func(string) string{resp.Trailer.Get, func(k string) string { return direct.trailer.Get(k)[0] }} {
			if trailer(api.TrailerCost) != cost || trailer(api.TrailerCurrency) != "USD" || trailer(api.TrailerUnpriced) != "600000000000" || trailer(api.TrailerAveraged) != "0" {
				t.Errorf("%s: cost %s, the report says %s; %s unpriced", format, trailer(api.TrailerCost), cost, trailer(api.TrailerUnpriced))
			}
		}
		check := func() (*validate.Report, error) { return validate.CSV(bytes.NewReader(body)) }
		if format == api.FormatParquet {
			check = func() (*validate.Report, error) { return validate.Parquet(bytes.NewReader(body), int64(len(body))) }
		}
		found, err := check()
		if err != nil || !found.Valid() || amount(t, found.Cost).Cmp(amount(t, cost)) != 0 {
			t.Errorf("%s: %+v, %v", format, found, err)
		}
	}
}

func amount(t *testing.T, s string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is not a number", s)
	}
	return r
}

func get(t *testing.T, s *httptest.Server, path string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// A file of many messages arrives whole.
func TestExportOfManyMessages(t *testing.T) {
	f := newFixture(t)
	if _, err := f.docs.ApplyRateCard(t.Context(), card()); err != nil {
		t.Fatal(err)
	}
	w := querytest.NewWorld()
	const hours = 250
	chunks := w.Chunks(0, 10)
	for h := range hours {
		chunks = append(chunks, w.Chunk("n1", querytest.Start+attribution.Second(3600*(h+1)), 10))
	}
	*f.store = *querytest.NewStore(chunks...)
	long := strings.Repeat("a name that is long ", 12)
	direct := &collect{ctx: t.Context()}
	req := &pb.ExportRequest{Format: api.FormatCSV, Step: 3600, Provider: long, BillingAccountId: long, BillingAccountName: long}
	if err := f.server.Export(req, direct); err != nil {
		t.Fatal(err)
	}
	if direct.body.Len() < 3*direct.largest || direct.largest > 256<<10 {
		t.Fatalf("%d bytes in messages of up to %d: not what this test is about", direct.body.Len(), direct.largest)
	}
	q := strings.ReplaceAll(long, " ", "+")
	_, body := get(t, f.http, "/v1/export?step=3600&format=focus-csv&provider="+q+"&billing_account_id="+q+"&billing_account_name="+q)
	if !bytes.Equal(body, direct.body.Bytes()) {
		t.Errorf("HTTP gives %d bytes, gRPC %d", len(body), direct.body.Len())
	}
	rows, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	if err != nil || len(rows) < 2*hours {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

// A file that breaks off must not look whole.
func TestExportThatBreaksOff(t *testing.T) {
	direct := &collect{ctx: t.Context(), fail: errors.New("gone")}
	f := newFixture(t)
	if err := f.server.Export(&pb.ExportRequest{Format: api.FormatCSV}, direct); err == nil || direct.trailer != nil {
		t.Errorf("%v, trailer %v", err, direct.trailer)
	}
	// Over HTTP, where the first message has gone out already: the connection
	// is cut.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterLedgerServer(s, halfExport{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	h := httptest.NewServer(api.ExportOf(t, l.Addr().String()))
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.Client().Do(req)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err == nil {
		t.Error("half a file came without an error")
	}
}

// halfExport ends in the middle of a file.
type halfExport struct{ pb.UnimplementedLedgerServer }

func (halfExport) Export(_ *pb.ExportRequest, s grpc.ServerStreamingServer[httpbody.HttpBody]) error {
	if err := s.Send(&httpbody.HttpBody{ContentType: "text/csv", Data: []byte("BilledCost\r\n1\r\n")}); err != nil {
		return err
	}
	return errors.New("the disk is gone")
}

func TestBadExports(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{
		"/v1/export":                                     `want focus-csv or focus-parquet`,
		"/v1/export?format=xlsx":                         `format \"xlsx\"`,
		"/v1/export?format=focus-csv&step=60":            "charge periods are hours",
		"/v1/export?format=focus-csv&allocate_by=teem":   "did you mean team?",
		"/v1/export?format=focus-csv&from=noon":          "from",
		"/v1/export?format=focus-csv&bye=team":           `unknown parameter \"bye\"`,
		"/v1/export?format=focus-parquet&from=9&to=3":    "from must be before to",
		"/v1/export?format=focus-csv&allocate_by=device": "can't be split by device",
	} {
		if code, body := f.do(t, "GET", path, ""); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", path, code, body, want)
		}
	}
}

package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// MaxRequest bounds a request's body and its query, in bytes.
const MaxRequest = 1 << 20

// Gateway is the service over HTTP/JSON. It calls the Server in memory, so
// that streams and errors are the same on both ways.
type Gateway struct {
	handler http.Handler
	server  *grpc.Server
	conn    *grpc.ClientConn
	served  chan error
}

// NewGateway makes a Gateway. Paths below /v1/ are the service's, all others
// are page's, which may be nil. Close it after the http.Server that it is
// given to. Fields are named as in the proto file, defaults are written out,
// and 64-bit integers are text, as in protojson.
func NewGateway(ctx context.Context, s *Server, page http.Handler, options ...Options) (*Gateway, error) {
	var o Options
	for _, x := range options {
		o.Server, o.Dial = append(o.Server, x.Server...), append(o.Dial, x.Dial...)
	}
	listener := bufconn.Listen(MaxRequest)
	g := &Gateway{server: grpc.NewServer(o.Server...), served: make(chan error, 1)}
	pb.RegisterLedgerServer(g.server, s)
	go func() { g.served <- g.server.Serve(listener) }()

	conn, err := grpc.NewClient("passthrough:ledger", append(o.Dial,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect the gateway: %w", err), g.Close())
	}
	g.conn = conn
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true, UseProtoNames: true},
		}),
		// No header of a request means anything to the service.
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
	)
	if err := pb.RegisterLedgerHandlerClient(ctx, mux, pb.NewLedgerClient(conn)); err != nil {
		return nil, errors.Join(fmt.Errorf("register the gateway: %w", err), g.Close())
	}
	all := http.NewServeMux()
	all.Handle("/v1/", checkRequest(mux))
	all.Handle("/v1/export", checkRequest(exportFile(pb.NewLedgerClient(conn))))
	if page != nil {
		all.Handle("/", page)
	}
	g.handler = http.MaxBytesHandler(all, MaxRequest)
	return g, nil
}

// maxAnswer is far above the largest answer that the row limits allow.
const maxAnswer = 1 << 30

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		w.Header().Set("Cache-Control", "no-store")
	}
	g.handler.ServeHTTP(w, r)
}

// Close ends calls that are still running and frees what the gateway holds.
func (g *Gateway) Close() error {
	var err error
	if g.conn != nil {
		err = g.conn.Close()
	}
	g.server.Stop()
	return errors.Join(err, <-g.served)
}

// checkRequest refuses query parameters that a method does not have: the
// gateway would ignore them, and a mistyped filter would answer another
// question than the one asked. It also knows which verbs a path takes: the
// gateway does not know HEAD, and would let a POST pass for a GET.
func checkRequest(next http.Handler) http.Handler {
	known := map[string][]string{} // by path
	methods := pb.File_gpuledger_v1_query_proto.Services().ByName("Ledger").Methods()
	for path, method := range map[string]protoreflect.Name{
		"/v1/report": "Report", "/v1/unit-costs": "UnitCosts", "/v1/devices": "Devices", "/v1/verify": "Verify",
		"/v1/status": "Status", "/v1/rate-card": "GetRateCard", "/v1/rules": "GetRules",
		"/v1/runs": "Runs", "/v1/slo": "SLO", "/v1/reratings": "Reratings", "/v1/export": "Export",
		"/v1/rules/compare": "CompareRules", "/v1/whoami": "WhoAmI", "/v1/audit": "Audit",
	} {
		fields := methods.ByName(method).Input().Fields()
		known[path] = []string{}
		for i := range fields.Len() {
			known[path] = append(known[path], string(fields.Get(i).Name()))
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names, ok := known[r.URL.Path]
		if ok {
			verbs := []string{http.MethodGet, http.MethodHead}
			switch r.URL.Path {
			case "/v1/rate-card", "/v1/rules":
				verbs = append(verbs, http.MethodPut)
			case "/v1/reratings":
				verbs = append(verbs, http.MethodPost)
			case "/v1/rules/compare":
				verbs = []string{http.MethodPost}
				names = nil // all of the question is in the body
			}
			if !slices.Contains(verbs, r.Method) {
				w.Header().Set("Allow", strings.Join(verbs, ", "))
				refuse(w, http.StatusMethodNotAllowed, codes.Unimplemented, fmt.Sprintf("%s takes %s", r.URL.Path, strings.Join(verbs, ", ")))
				return
			}
			if r.Method == http.MethodHead { // the server leaves the body out
				r = r.Clone(r.Context())
				r.Method = http.MethodGet
			}
			for p := range r.URL.Query() {
				if !slices.Contains(names, p) {
					refuse(w, http.StatusBadRequest, codes.InvalidArgument, unknownParameter(p, names))
					return
				}
			}
		}
		next.ServeHTTP(w, r)
	})
}

func unknownParameter(p string, names []string) string {
	if len(names) == 0 {
		return fmt.Sprintf("unknown parameter %q: this path takes none", p)
	}
	return fmt.Sprintf("unknown parameter %q: want one of %s", p, strings.Join(names, ", "))
}

// refuse writes an error as the gateway does.
func refuse(w http.ResponseWriter, httpStatus int, code codes.Code, message string) {
	body, err := protojson.Marshal(&statuspb.Status{Code: int32(code), Message: message})
	if err != nil {
		panic("BUG: api: a status can't be written: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(httpStatus)
	_, _ = w.Write(body) // the asker may be gone
}

package access

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// Audience is whom something is for.
type Audience int

// The audiences.
const (
	Callers Audience = iota // those that a Guard knows, as far as the rule says
	Agents                  // nodes and collectors, which prove who they are by other means
	Anyone                  // it holds nothing of the ledger
)

// Reach is how a caller's limits apply.
type Reach int

// The reaches.
const (
	// Whole cannot be narrowed: only grants without limits count.
	Whole Reach = iota
	// Scoped is answered within the caller's scope, by package query.
	Scoped
	// Narrowed loses in the answer what a caller without a whole grant of
	// the operator's role may not see.
	Narrowed
	// OfCaller is about the caller alone: any grant, or none, will do.
	OfCaller
	// Deferred is decided by the rule of the method behind the route.
	Deferred
)

// Rule is what it takes to ask something.
type Rule struct {
	For   Audience
	Role  Role
	Reach Reach
	// Narrow strips an answer, for Narrowed.
	Narrow func(proto.Message)
}

// Methods are the rules of all methods, by their full names. What is not here is
// refused to everybody.
func Methods() map[string]Rule {
	viewer, operator, admin := Rule{Role: Viewer, Reach: Scoped}, Rule{Role: Operator}, Rule{Role: Admin}
	everything := Rule{Role: Viewer} // its text may name anybody
	return map[string]Rule{
		pb.Ledger_Report_FullMethodName:       viewer,
		pb.Ledger_UnitCosts_FullMethodName:    viewer,
		pb.Ledger_Devices_FullMethodName:      viewer,
		pb.Ledger_Runs_FullMethodName:         viewer,
		pb.Ledger_SLO_FullMethodName:          viewer,
		pb.Ledger_CompareRules_FullMethodName: viewer,
		pb.Ledger_Export_FullMethodName:       viewer,

		pb.Ledger_Status_FullMethodName: {Role: Viewer, Reach: Narrowed, Narrow: narrowStatus},

		// Rules name teams and namespaces, rate cards clusters and labels,
		// reratings what all of them cost.
		pb.Ledger_GetRules_FullMethodName:    everything,
		pb.Ledger_GetRateCard_FullMethodName: everything,
		pb.Ledger_Reratings_FullMethodName:   everything,

		pb.Ledger_Verify_FullMethodName: operator,
		pb.Ledger_Audit_FullMethodName:  operator,

		pb.Ledger_ApplyRules_FullMethodName:    admin,
		pb.Ledger_ApplyRateCard_FullMethodName: admin,
		pb.Ledger_Rerate_FullMethodName:        admin,
		pb.Ledger_Backup_FullMethodName:        admin,

		// Other collectors are callers of their own: what one has open is of
		// all nodes.
		pb.Peer_Open_FullMethodName:  operator,
		pb.Peer_Nodes_FullMethodName: operator,

		pb.Ledger_WhoAmI_FullMethodName: {Reach: OfCaller},

		pb.Ingest_Stream_FullMethodName: {For: Agents},
	}
}

// narrowStatus leaves what says nothing of other people's nodes: that the
// collector answers, and which time it has.
func narrowStatus(m proto.Message) {
	s, ok := m.(*pb.StatusResponse)
	if !ok {
		panic("BUG: access: not a status")
	}
	kept := &pb.StatusResponse{
		Version: s.GetVersion(), FirstSecond: s.GetFirstSecond(), LastSecond: s.GetLastSecond(),
		RateCardRevision: s.GetRateCardRevision(), RulesRevision: s.GetRulesRevision(),
	}
	proto.Reset(s)
	proto.Merge(s, kept)
}

// Routes are the rules of all HTTP routes, by the patterns of http.ServeMux.
func Routes() map[string]Rule {
	viewer, everything, admin := Rule{Role: Viewer, Reach: Scoped}, Rule{Role: Viewer}, Rule{Role: Admin}
	open := Rule{For: Anyone}
	return map[string]Rule{
		"GET /healthz": open,
		"GET /readyz":  open,
		// The page is the same for all: what it shows, it asks of /v1/.
		"/": open,

		"/v1/": {Reach: Deferred},

		"GET /allocation":        viewer,
		"GET /allocation/":       viewer,
		"GET /model/allocation":  viewer,
		"GET /model/allocation/": viewer,

		// Counts are of all; they are read by what watches the fleet.
		"GET /metrics":         everything,
		"GET /metrics/rollups": everything,

		// A profile may hold any memory of the process.
		"GET /debug/pprof/":        admin,
		"GET /debug/pprof/profile": admin,
		"GET /debug/pprof/trace":   admin,
	}
}

// May decides whether a caller may ask what a rule is for.
func (c *Caller) May(r Rule) error {
	switch r.Reach {
	case OfCaller, Deferred:
		return nil
	case Scoped, Narrowed:
		if c.role >= r.Role {
			return nil
		}
	case Whole:
		if c.whole >= r.Role {
			return nil
		}
		if c.role >= r.Role {
			return refused("%s may ask this of some clusters, namespaces or teams only, and it cannot be told of a part: ask who is %s of all", c.Name, r.Role)
		}
	}
	return refused("%s may not ask this: it takes the role %s", c.Name, r.Role)
}

// sees reports whether a caller sees all of an answer that is narrowed for
// others, and the inside of errors.
func (c *Caller) sees() bool { return c.whole >= Operator }

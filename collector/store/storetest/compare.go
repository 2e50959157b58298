package storetest

import (
	"cmp"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// compareFacts is the order that [store.Reader.Rows] promises.
func compareFacts(a, b store.FactRow) int {
	return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareDevices(a.Device, b.Device), attribution.CompareOwners(a.Owner, b.Owner),
		cmp.Compare(a.Basis, b.Basis), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Revision, b.Revision))
}

// compareTallyFacts is the order that [store.Reader.TallyRows] promises.
func compareTallyFacts(a, b store.TallyFactRow) int {
	return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), attribution.CompareOwners(a.Owner, b.Owner), cmp.Compare(a.Model, b.Model),
		cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Measure, b.Measure))
}

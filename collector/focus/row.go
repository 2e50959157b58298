package focus

import "github.com/gpuledger/gpuledger/attribution"

// Names are what the file says of who provides, invoices and pays. None is
// blank once a Request has been checked.
type Names struct {
	BillingAccountID   string
	BillingAccountName string
	Provider           string // who offers the GPUs to the teams
	InvoiceIssuer      string // who invoices this charge
	Host               string // whose infrastructure it runs on
	Currency           string // ISO 4217
}

// Portion says which part of an origin charge a row is.
type Portion string

// The portions. A row that is not split has none.
const (
	Owned        Portion = "owned"        // of an owner that the dimensions name
	Unmapped     Portion = "unmapped"     // of an owner for whom none of the dimensions has a value
	Unallocated  Portion = "unallocated"  // held by nobody
	Unattributed Portion = "unattributed" // used by something that maps to no owner
)

// Where a unit price is from.
const (
	fromCard    = "rate-card"
	fromAverage = "average" // the period had several prices, or its rate card is gone
)

// origin is what all rows of one origin charge share.
type origin struct {
	names    *Names
	device   attribution.Device
	from, to attribution.Second // charge period
	month    [2]int64           // billing period

	originID                     string
	resourceName, resourceType   string
	region, zone, tags           string
	sku, skuDetails, description string
	pricing                      string
	unitPrice                    Decimal
	priceSource                  string
	revision, rerating           *Decimal // one of them
	originCost, originQuantity   *Decimal // of rows that are split
}

// Row is one charge of the file.
type Row struct {
	*origin

	ownerID, ownerName, ownerTags string
	method, details               string
	portion                       Portion

	cost, billed, list, quantity, seconds                 Decimal
	used, reserved, unallocated, unattributed, unobserved *Decimal
	usedCost, energy                                      *Decimal
}

// Cost is the row's effective cost.
func (r *Row) Cost() Decimal { return r.cost }

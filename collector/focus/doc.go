// Package focus writes the ledger as FOCUS, the FinOps Open Cost and Usage
// Specification: rows of its version 1.2 with the split cost columns of 1.3,
// as CSV or Parquet.
//
// # Charges
//
// What a device cost in a charge period (an hour or a day, UTC), under one
// revision of the rate card, is an origin charge. It is split over its owners:
// each gets an allocated charge, told apart by dimensions such as team. What
// nobody held, and what maps to no owner, are allocated charges of their own.
// The file holds the allocated charges alone, for they are the origin: their
// costs and quantities sum to its, exactly, and an origin beside them would
// count everything twice. x_OriginChargeId joins what belongs together.
//
// # Exactness
//
//  1. EffectiveCost is the ledger's cost, to the nano unit: the file sums to
//     what a report says.
//  2. ListCost = ListUnitPrice × PricingQuantity, and the same for
//     ContractedCost, as decimals: no row is off by a rounding.
//  3. Quantities, costs and ratios of an origin's rows sum to the origin's.
//
// No unit price can make 1 and 2 one thing. A second costs whole nano units
// and is split over its owners in whole nano units (law 1), so the quotient of
// a row's cost and its price is seldom a decimal that ends; nor is a second
// one as a part of an hour. FOCUS ties unit prices to list and contracted
// cost, and effective cost to what is recognised. So the list side counts the
// time in millionths of a millionth of an hour and multiplies; the effective
// side is the ledger. They differ by less than a nano unit per second and
// owner. Quantities are apportioned by largest remainder, so that whole hours
// stay whole.
//
// # Unpriced time
//
// Time without a price has an unknown cost. FOCUS has no such thing, and a row
// of cost 0 would say that it was free (law 9). It is left out and counted:
// [Summary.Unpriced].
//
// Memory is bounded by what one charge period holds: each is one question to
// the ledger, answered from one consistent state, and its rows are held
// against that state's own total before they are written.
package focus

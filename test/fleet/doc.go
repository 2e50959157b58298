// Package fleet tests several collectors of one ledger with the agents that
// stream to them: all of it in one process and in virtual time, over a store in
// memory that is dumb and right.
package fleet

// Package docs holds what users read. The configuration reference is generated
// from the programs' Config structs; TestUpToDate of configref fails when it is
// stale.
package docs

//go:generate go run ./configref -root .. -out configuration.md

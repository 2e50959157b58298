package storetest

import (
	"flag"
	"strconv"
	"testing"
)

// rounds is how often a property of a real store is tried, unless the command
// line says it (-rapid.checks): each round opens a store of its own and asks it
// dozens of questions.
func rounds(t *testing.T) {
	t.Helper()
	tries(t, 25)
}

// tries is rounds with another number of them.
func tries(t *testing.T, n int) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if given {
		return
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { _ = checks.Value.Set(before) }) // it was its value
	if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
}

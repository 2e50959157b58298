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
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if given {
		return
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { _ = checks.Value.Set(before) }) // it was its value
	const n = 25
	if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
}

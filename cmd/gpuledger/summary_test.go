package main

import (
	"encoding/json"
	"testing"
)

// A figure that nobody knows is null, never 0 and never an error (law 9).
func TestLaw9SummaryInJSON(t *testing.T) {
	got, err := json.Marshal(basisFigure{Seconds: "462205.820504442", Percent: "7.29957", Cost: ""})
	const want = `{"seconds":462205.820504442,"percent":7.29957,"cost":null}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

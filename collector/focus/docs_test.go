package focus_test

import (
	"os"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/collector/focus"
)

// The page for finance says what each column holds.
func TestDocsNameEveryColumn(t *testing.T) {
	page, err := os.ReadFile("../../docs/focus.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range focus.Columns() {
		if !strings.Contains(string(page), "`"+c.Name+"`") {
			t.Errorf("docs/focus.md does not say what %s holds", c.Name)
		}
	}
}

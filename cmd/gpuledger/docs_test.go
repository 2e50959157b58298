package main

import (
	"os"
	"strings"
	"testing"
)

// TestDocumentedCommands: every call of gpuledger in the pages for users is one
// that the command knows, flags included.
func TestDocumentedCommands(t *testing.T) {
	calls := 0
	for _, page := range []string{"../../README.md", "../../docs/quickstart.md", "../../docs/operations.md", "../../docs/recording.md", "../../docs/concepts.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		code := false
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "```") {
				code = !code
			}
			line, _, _ = strings.Cut(line, " #")
			line, _, _ = strings.Cut(line, " > ")
			words := strings.Fields(line)
			if !code || len(words) < 2 || strings.TrimPrefix(words[0], "bin/") != "gpuledger" {
				continue
			}
			calls++
			c, rest, err := newRoot().Find(words[1:])
			if err != nil || !c.HasParent() || c.HasSubCommands() {
				t.Errorf("%s: %s: no such command", page, line)
				continue
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: %s: %v", page, line, err)
			}
			if err := c.ValidateArgs(c.Flags().Args()); err != nil {
				t.Errorf("%s: %s: %v", page, line, err)
			}
		}
	}
	if calls < 20 {
		t.Errorf("found only %d calls: the search is broken", calls)
	}
}

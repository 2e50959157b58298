package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocumentedCommands: every call of gpuledger in the pages for users is one
// that the command knows, flags included.
func TestDocumentedCommands(t *testing.T) {
	calls := 0
	for _, page := range []string{
		"../../README.md", "../../docs/quickstart.md", "../../docs/operations.md", "../../docs/recording.md", "../../docs/concepts.md",
		"../../docs/focus.md", "../../docs/access.md", "../../docs/gateways.md", "../../docs/inference.md", "../../docs/opencost.md", "../../docs/node.md", "../../deploy/README.md",
	} {
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
			if err != nil || !c.HasParent() || onlyGroups(c) {
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

// onlyGroups reports whether a command only has subcommands: given anything
// else it shows its help. Others, such as rerate, have some and run themselves.
func onlyGroups(c *cobra.Command) bool {
	return reflect.ValueOf(c.RunE).Pointer() == reflect.ValueOf(showHelp).Pointer()
}

// A page that calls what is only a group of commands shows a mistake.
func TestGroupsOfCommands(t *testing.T) {
	for line, want := range map[string]bool{"export": true, "rules": true, "rerate": false, "rerate list": false, "report": false} {
		c, _, err := newRoot().Find(strings.Fields(line))
		if err != nil || onlyGroups(c) != want {
			t.Errorf("%s: only a group of commands: %v (%v)", line, !want, err)
		}
	}
}

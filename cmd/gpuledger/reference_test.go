package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

//go:generate go test -run TestReference . -update

const referenceHead = "<!-- Generated from the help of gpuledger by its tests: run make generate. -->\n\n" +
	"# Commands\n\nWhat `gpuledger COMMAND --help` says, of all commands.\n"

// reference is the help of all commands as a page.
func reference(root *cobra.Command) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	root.InitDefaultHelpCmd()
	var walk func(*cobra.Command) error
	walk = func(c *cobra.Command) error {
		if !c.IsAvailableCommand() || c.Name() == "completion" || c.Name() == "help" {
			return nil
		}
		c.InitDefaultHelpFlag()
		c.SetOut(&b)
		fmt.Fprintf(&b, "\n## %s\n\n```\n", c.CommandPath())
		if err := c.Help(); err != nil {
			return err
		}
		b.WriteString("```\n")
		for _, sub := range c.Commands() {
			if err := walk(sub); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(root); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// untaught are the commands whose help says less than a newcomer needs.
func untaught(c *cobra.Command) []string {
	var bad []string
	if c.HasParent() && c.IsAvailableCommand() && c.Name() != "help" && c.Name() != "completion" {
		if c.Long == "" && c.Parent() == c.Root() {
			bad = append(bad, c.CommandPath()+" has no long help")
		}
		if c.Example == "" && !strings.Contains(c.Parent().Example, c.CommandPath()) {
			bad = append(bad, c.CommandPath()+" has no example, and its parent shows none")
		}
	}
	for _, sub := range c.Commands() {
		bad = append(bad, untaught(sub)...)
	}
	return bad
}

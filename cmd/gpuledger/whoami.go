package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newWhoAmI(t *target) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "whoami",
		Short: "Whom the collector takes you for, and what you may ask",
		Long: `whoami shows your token or certificate to the collector and prints whom it
takes you for, by which way, and which roles you have over what.`,
		Example: "  gpuledger whoami --token-file ~/.config/gpuledger/token",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(out, outTable, outJSON); err != nil {
				return err
			}
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.WhoAmI(c.Context(), &pb.WhoAmIRequest{})
				if err != nil {
					return err
				}
				if out == outJSON {
					return printJSON(c.OutOrStdout(), res)
				}
				return printWhoAmI(c.OutOrStdout(), res)
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", outTable, "table or json")
	return c
}

func methodText(method string) string {
	switch method {
	case "none":
		return "nobody is asked who they are here"
	case "token":
		return "by a static token"
	case "oidc":
		return "by a token of the OpenID Connect issuer"
	case "certificate":
		return "by a client certificate"
	}
	return "by " + keyText(method, false)
}

func printWhoAmI(out io.Writer, res *pb.WhoAmIResponse) error {
	w := &strings.Builder{}
	fmt.Fprintf(w, "%s (%s)\n\n", keyText(res.GetName(), false), methodText(res.GetMethod()))
	if len(res.GetGrants()) == 0 {
		fmt.Fprintln(w, "You may ask nothing: no grant of the collector's configuration names you or your groups.")
	} else {
		tab := newTable("ROLE", "CLUSTERS", "NAMESPACES", "TEAMS")
		for _, g := range res.GetGrants() {
			tab.add(keyText(g.GetRole(), false), allOr(g.GetClusters()), allOr(g.GetNamespaces()), allOr(g.GetTeams()))
		}
		if err := tab.write(w); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, w.String())
	return err
}

// allOr lists values; none is no limit.
func allOr(values []string) string {
	if len(values) == 0 {
		return "all"
	}
	texts := make([]string, 0, len(values))
	for _, v := range values {
		texts = append(texts, keyText(v, false))
	}
	return strings.Join(texts, ", ")
}

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpuledger/gpuledger/collector/api"
	"github.com/gpuledger/gpuledger/collector/mapping"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func newRules(t *target) *cobra.Command {
	c := &cobra.Command{
		Use:   "rules",
		Short: "Check, compare, apply and show how labels become teams, models, tiers, …",
		Long: `Labels are facts; teams, budget owners, environments, models, classes, tiers and
runs are mapped from them by rules when a question is asked. Applying corrected
rules corrects history.

For each target the first rule that yields a value counts: a fixed value, that
of a label, the namespace or the controller's name; with extract, the part of it
that * stands for. What is applied replaces all rules before it, so begin with
"rules show", and see what would move with "rules compare".

  rules:
    - {target: team, from_label: team}
    - {target: team, namespace: "search-*", value: search}
    - {target: environment, from_namespace: true, extract: "*-prod"}
    - {target: model, controller: "Deployment/llama-*", value: llama-3-70b}
    - {target: tier, labels: {plan: enterprise}, value: gold}

Rules with served or tenant judge names that traffic carries, not owners, and so
does every rule for a family, which judges the model's name:

    - {target: model, served: "meta-llama/*", from_name: true, extract: "meta-llama/*"}
    - {target: family, served: "llama-3-*", value: llama-3}
    - {target: tier, tenant: "acme-*", value: gold}`,
		Example: `  gpuledger rules show > rules.yaml
  gpuledger rules check rules.yaml
  gpuledger rules compare rules.yaml --last 30d
  gpuledger rules apply rules.yaml`,
		RunE: showHelp,
	}
	c.AddCommand(
		&cobra.Command{
			Use: "check FILE", Short: "Say whether rules are sound, without applying them",
			Args: exactArgs(1, "one file"),
			RunE: func(c *cobra.Command, args []string) error {
				rules, err := readRules(args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "%s is sound: %s.\n", args[0], plural(len(rules.Rules), "rule"))
				return err
			},
		},
		&cobra.Command{
			Use: "apply FILE", Short: "Make rules the next revision; history follows",
			Long: `apply makes rules the next revision. All answers follow them from then on, about
the past too; "gpuledger rules compare FILE" tells beforehand what they move.`,
			Args: exactArgs(1, "one file"),
			RunE: func(c *cobra.Command, args []string) error {
				rules, err := readRules(args[0])
				if err != nil {
					return err
				}
				return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
					res, err := l.ApplyRules(c.Context(), &pb.ApplyRulesRequest{Rules: api.EncodeRules(rules)})
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(c.OutOrStdout(), "Rules %s are revision %d as of %s.\n", args[0], res.GetRevision(), time.Now().UTC().Format(time.RFC3339))
					return err
				})
			},
		},
		newRulesCompare(t),
		newRulesShow(t),
	)
	return c
}

func newRulesShow(t *target) *cobra.Command {
	var revision uint32
	c := &cobra.Command{
		Use: "show", Short: "Print the rules in force, or an earlier revision",
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.with(c.Context(), c.ErrOrStderr(), func(l pb.LedgerClient) error {
				res, err := l.GetRules(c.Context(), &pb.GetRulesRequest{Revision: revision})
				if err != nil {
					return err
				}
				b, err := api.DecodeRules(res).Marshal()
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(b)
				return err
			})
		},
	}
	c.Flags().Uint32Var(&revision, "revision", 0, "which revision (0: the one in force)")
	return c
}

func readRules(path string) (*mapping.Rules, error) {
	b, err := readDocument(path)
	if err != nil {
		return nil, err
	}
	rules, err := mapping.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rules, nil
}

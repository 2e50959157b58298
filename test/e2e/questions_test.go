package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/test/week"
)

var update = flag.Bool("update", false, "write the answers to questions, and docs/questions.md, anew")

const questions = "testdata/questions"

// TestQuestions asks a week of a small fleet what teams and FinOps people ask.
// Each script is a question, what to type, and the answer; docs/questions.md is
// made of them.
func TestQuestions(t *testing.T) {
	addr := weekLedger(t)
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: questions, RequireUniqueNames: true, RequireExplicitExec: true, UpdateScripts: *update,
			Setup: func(env *testscript.Env) error {
				env.Setenv("PATH", string(bin))
				env.Setenv("GPULEDGER_COLLECTOR", addr)
				// The rules in force, with one before them.
				rules := weekRules()
				rules.Rules = append([]mapping.Rule{{Target: mapping.Team, Controller: "StatefulSet/notebook", Value: "ada"}}, rules.Rules...)
				text, err := rules.Marshal()
				if err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(env.WorkDir, "corrected.yaml"), text, 0o600)
			},
		})
	})
	page := questionsPage(t)
	const file = "../../docs/questions.md"
	if *update {
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, page) {
		t.Error("docs/questions.md is stale: run go test ./test/e2e -run TestQuestions -update")
	}
}

// weekLedger is the address of a collector that has the week.
func weekLedger(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	recording, card, rules := filepath.Join(dir, "week.jsonl"), filepath.Join(dir, "card.yaml"), filepath.Join(dir, "rules.yaml")
	f, err := os.Create(recording)
	if err != nil {
		t.Fatal(err)
	}
	if err := week.Record(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := weekRules().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{card: []byte(week.Card), rules: text} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, dir, play{recording: recording})
	w.collector = startProc(t, filepath.Join(dir, "collector.log"), "gpuledger-collector", append(collectorArgs(t, dir, w.addr, card), "--rules", rules)...)
	awaitReady(t, dir, w.collector)
	agent := startProc(t, filepath.Join(dir, "agent.log"), "gpuledger-agent", "--config", w.agentConfig)
	<-agent.Done
	if agent.Err != nil {
		t.Fatalf("the agent: %v\n%s", agent.Err, agent.Tail())
	}
	return w.addr
}

// weekRules are the defaults and, before them, what the fleet's people agreed
// on: which customers are of which tier, and what its models are called.
func weekRules() *mapping.Rules {
	rules := mapping.Default()
	rules.Rules = append([]mapping.Rule{
		{Target: mapping.Tier, Tenant: "acme", Value: "gold"},
		{Target: mapping.Tier, Tenant: "globex", Value: "gold"},
		{Target: mapping.Tier, Tenant: "*", Value: "free"},
		{Target: mapping.Model, Served: week.ChatModel, Value: "llama-3.1-70b"},
		{Target: mapping.Family, Served: "llama-*", Value: "llama"},
	}, rules.Rules...)
	return rules
}

// questionsPage is docs/questions.md.
func questionsPage(t *testing.T) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(questions, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("there are no questions", err)
	}
	slices.Sort(files)
	var b bytes.Buffer
	b.WriteString(`<!-- Generated from test/e2e/testdata/questions: run go test ./test/e2e -run TestQuestions -update. -->

# Questions

What teams and FinOps people ask, with the command and the answer. The fleet is a made-up week of two nodes: a chat model of the search team behind a gateway, the ads team's ranker, a training run of the research team that was preempted once, a notebook that idles, and a GPU that nobody holds ([test/week](../test/week/week.go)). The answers are those of the real programs, checked by a test.

Every figure can be had as ` + "`-o csv`" + ` and ` + "`-o json`" + `, which leave nothing out, and over HTTP under ` + "`/v1/…`" + ` with the same names.

`)
	var body bytes.Buffer
	for _, file := range files {
		title := writeQuestion(t, &body, file)
		fmt.Fprintf(&b, "- [%s](#%s)\n", title, anchor(title))
	}
	b.WriteByte('\n')
	b.Write(body.Bytes())
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}

// writeQuestion writes a script as people read it: its first comment line is
// the question, other comments are text, commands are shown with their answer.
func writeQuestion(t *testing.T, b *bytes.Buffer, file string) (title string) {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{}
	for _, f := range archive.Files {
		answers[f.Name] = string(f.Data)
	}
	var text []string
	paragraph := func() {
		if len(text) > 0 {
			fmt.Fprintf(b, "%s\n\n", strings.Join(text, " "))
			text = nil
		}
	}
	command := ""
	show := func(answer string) {
		if command != "" {
			fmt.Fprintf(b, "```console\n$ %s\n%s```\n\n", command, answer)
			command = ""
		}
	}
	for line := range strings.Lines(string(archive.Comment)) {
		line = strings.TrimRight(line, "\n")
		comment, isComment := strings.CutPrefix(line, "# ")
		exec, isExec := strings.CutPrefix(line, "exec ")
		answer, isAnswer := strings.CutPrefix(line, "cmp stdout ")
		switch {
		case isComment && title == "":
			title = comment
			fmt.Fprintf(b, "## %s\n\n", title)
		case isComment:
			text = append(text, comment)
		case isExec:
			paragraph()
			show("")
			command = exec
		case isAnswer:
			show(answers[answer])
		default:
			show("")
			paragraph()
		}
	}
	show("")
	paragraph()
	if title == "" {
		t.Fatalf("%s asks nothing: begin with # and the question", file)
	}
	return title
}

// anchor is what a heading is linked by.
func anchor(title string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(title))
}

// Command configref writes docs/configuration.md: every setting of the programs
// with its key, type, default and meaning.
//
// Keys, types and meanings come from the source of the Config structs, defaults
// from the values that the programs start with. Where a comment states a
// default, it must be the true one: configref fails otherwise, so that a
// comment can't go stale. The output depends on nothing else.
package main

import (
	"bytes"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gpuledger/gpuledger/agent"
	"github.com/gpuledger/gpuledger/collector"
)

//go:embed head.md
var head []byte

//go:embed tail.md
var tail []byte

// program is a program with a configuration.
type program struct {
	name   string
	source string // files with the struct Config and its parts, from the root of the repository
	yaml   func() ([]byte, error)
}

func programs() []program {
	agentDefaults, collectorDefaults := agent.DefaultConfig(), collector.DefaultConfig()
	return []program{
		{"gpuledger-agent", "agent/config*.go", agentDefaults.YAML},
		{"gpuledger-collector", "collector/config*.go", collectorDefaults.YAML},
	}
}

func main() {
	root := flag.String("root", ".", "the repository's root")
	out := flag.String("out", "docs/configuration.md", "file to write")
	flag.Parse()
	page, err := render(*root)
	if err == nil {
		err = os.WriteFile(*out, page, 0o644) //nolint:gosec // a page to read
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "configref:", err)
		os.Exit(1)
	}
}

// render is the whole page.
func render(root string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(head)
	for _, p := range programs() {
		defaults, err := p.yaml()
		if err != nil {
			return nil, fmt.Errorf("%s: its defaults: %w", p.name, err)
		}
		files, err := readSources(filepath.Join(root, filepath.FromSlash(p.source)))
		if err != nil {
			return nil, err
		}
		sections, err := parse(p.source, files, defaults)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "\n## %s\n", p.name)
		for _, s := range sections {
			s.write(&b)
		}
		fmt.Fprintf(&b, "\nAll of it, with the defaults:\n\n```yaml\n%s```\n", defaults)
	}
	b.WriteByte('\n')
	b.Write(tail)
	return b.Bytes(), nil
}

// readSources reads the files that a pattern names, but for tests.
func readSources(pattern string) (files []sourceFile, err error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, sourceFile{name, text})
	}
	return files, nil
}

// write appends a section as a heading and a table.
func (s *section) write(b *bytes.Buffer) {
	if s.path != "" {
		fmt.Fprintf(b, "\n### `%s`\n", s.path)
	}
	if s.doc != "" {
		fmt.Fprintf(b, "\n%s\n", s.doc)
	}
	b.WriteString("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, k := range s.keys {
		value := ""
		if k.value != "" {
			value = "`" + k.value + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", k.path, k.kind, value, k.doc)
	}
}

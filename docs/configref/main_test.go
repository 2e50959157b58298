package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

func TestUpToDate(t *testing.T) {
	want, err := render(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/configuration.md is stale: run make generate")
	}
}

const structs = "package p\n\n" +
	"// Config is all.\ntype Config struct {\n" +
	"\t// Name is what it is called. Default: x.\n\tName string `yaml:\"name\"`\n" +
	"\tInner InnerConfig `yaml:\"inner\"`\n}\n\n" +
	"// InnerConfig bounds things.\ntype InnerConfig struct {\n" +
	"\t// CertFile and KeyFile are in PEM. Default \"\": none.\n\tCertFile string `yaml:\"cert_file\"`\n" +
	"\tKeyFile string `yaml:\"key_file\"`\n\n" +
	"\t// Wait is how long a|b waits. Default 0: for ever.\n\tWait int `yaml:\"wait\"`\n\n" +
	"\t// Keep holds how long. Default: 48h.\n\tKeep Duration `yaml:\"keep\"`\n}\n\n" +
	"type Duration struct{ int }\n"

const defaults = "name: x\ninner: {cert_file: \"\", key_file: \"\", wait: 0, keep: 48h0m0s}\n"

func TestParse(t *testing.T) {
	sections, err := parse("c", []sourceFile{{"c.go", []byte(structs)}}, []byte(defaults))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, s := range sections {
		s.write(&b)
	}
	const want = "\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n" +
		"| `name` | text | `x` | What it is called. |\n" +
		"\n### `inner`\n\nBounds things.\n" +
		"\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n" +
		"| `inner.cert_file` | text |  | `cert_file` and `key_file` are in PEM. |\n" +
		"| `inner.key_file` | text |  | See above. |\n" +
		"| `inner.wait` | integer | `0` | How long a\\|b waits. Default 0: for ever. |\n" +
		"| `inner.keep` | duration | `48h` | Holds how long. |\n"
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &b, want)
	}
}

// TestParseRefuses shows what can't get into the reference unnoticed.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"stale default", "Default: x.", "Default: y.", `the default is "y", but it is "x"`},
		{"stale meaning", "Default 0:", "Default 5:", `the default is "5", but it is "0"`},
		{"no comment", "\t// Wait is how long a|b waits. Default 0: for ever.\n", "", "inner.wait: has no comment"},
		{"key without default", "`yaml:\"wait\"`", "`yaml:\"weight\"`", "inner.weight is not among the defaults"},
		{"no key", "`yaml:\"wait\"`", "", "without a name or a yaml key"},
		{"new type", "Wait int", "Wait complex128", "no word for its type"},
		{"no Config", "type Config", "type Conf", "no struct Config"},
		{"not Go", "package p", "pakcage p", "expected 'package'"},
	} {
		source := strings.Replace(structs, c.old, c.new, 1)
		if source == structs {
			t.Fatalf("%s: changes nothing", c.name)
		}
		if _, err := parse("c", []sourceFile{{"c.go", []byte(source)}}, []byte(defaults)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestEnvironment finds the environment variables that the programs read and
// looks for each in the page.
func TestEnvironment(t *testing.T) {
	read := regexp.MustCompile(`(?:[gG]etenv|LookupEnv|envOr)\("([A-Z_]+)"`)
	found := 0
	for _, dir := range []string{"agent", "collector", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range read.FindAllSubmatch(source, -1) {
				found++
				if !bytes.Contains(tail, []byte("`"+string(m[1])+"`")) {
					t.Errorf("%s reads %s, which docs/configref/tail.md does not explain", path, m[1])
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 4 {
		t.Errorf("found only %d: the search is broken", found)
	}
}

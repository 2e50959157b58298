package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// section is one struct of a configuration.
type section struct {
	path string // "" for Config itself
	doc  string
	keys []key
}

// key is one setting.
type key struct {
	path, kind, value, doc string
}

// structType is a struct of the source with its comment.
type structType struct {
	*ast.StructType
	doc string
}

// reference turns structs into sections.
type reference struct {
	structs  map[string]structType
	sections []section
}

// sourceFile is a file of Go.
type sourceFile struct {
	name string
	text []byte
}

// parse finds the struct Config and those that it is made of. name is what they
// configure, for errors.
func parse(name string, files []sourceFile, defaults []byte) ([]section, error) {
	r := &reference{structs: make(map[string]structType)}
	for _, f := range files {
		if err := r.read(f); err != nil {
			return nil, err
		}
	}
	var values map[string]any
	if err := yaml.Unmarshal(defaults, &values); err != nil {
		return nil, fmt.Errorf("%s: its defaults: %w", name, err)
	}
	if err := r.section("Config", "", values); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r.sections, nil
}

// read takes the structs of a file.
func (r *reference) read(f sourceFile) error {
	file, err := parser.ParseFile(token.NewFileSet(), f.name, f.text, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range g.Specs {
			t, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			if s, ok := t.Type.(*ast.StructType); ok {
				r.structs[t.Name.Name] = structType{s, oneLine(g.Doc)}
			}
		}
	}
	return nil
}

// section appends a struct's section, and then those of the structs in it.
func (r *reference) section(typeName, path string, values map[string]any) error {
	t, ok := r.structs[typeName]
	if !ok {
		return fmt.Errorf("no struct %s", typeName)
	}
	at, doc := len(r.sections), ""
	if path != "" { // Config's own comment is for programmers
		doc = predicate(t.doc, typeName)
	}
	r.sections = append(r.sections, section{path: path, doc: doc})
	names := keysByField(t.StructType)
	var keys []key
	above := ""
	for _, f := range t.Fields.List {
		if len(f.Names) != 1 || names[f.Names[0].Name] == "" {
			return fmt.Errorf("%s has a field without a name or a yaml key of its own", typeName)
		}
		field := f.Names[0].Name
		full := strings.TrimPrefix(path+"."+names[field], ".")
		value, ok := values[names[field]]
		if !ok && values != nil { // what a list holds has no defaults
			return fmt.Errorf("%s is not among the defaults", full)
		}
		if id, ok := f.Type.(*ast.Ident); ok && r.isSection(id.Name) {
			inner, _ := value.(map[string]any)
			if err := r.section(id.Name, full, inner); err != nil {
				return err
			}
			continue
		}
		if elem := r.elements(f.Type); elem != "" {
			if err := r.section(elem, full+"[]", nil); err != nil {
				return err
			}
		}
		k, err := newKey(full, f, value, above)
		if err != nil {
			return err
		}
		above = oneLine(f.Doc)
		k.doc = withKeys(k.doc, field, names)
		keys = append(keys, k)
	}
	r.sections[at].keys = keys
	return nil
}

// elements is the type with keys of its own that a list holds, "" for none.
func (r *reference) elements(t ast.Expr) string {
	if l, ok := t.(*ast.ArrayType); ok {
		if id, ok := l.Elt.(*ast.Ident); ok && r.isSection(id.Name) {
			return id.Name
		}
	}
	return ""
}

// isSection reports whether a type has keys of its own. One that embeds
// another type, as Duration does, is a value.
func (r *reference) isSection(typeName string) bool {
	t, ok := r.structs[typeName]
	return ok && len(t.Fields.List) > 0 && len(t.Fields.List[0].Names) > 0
}

// keysByField maps the struct's fields to their yaml keys.
func keysByField(t *ast.StructType) map[string]string {
	names := make(map[string]string)
	for _, f := range t.Fields.List {
		if f.Tag == nil || len(f.Names) != 1 {
			continue
		}
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml")
		name, _, _ := strings.Cut(tag, ",")
		names[f.Names[0].Name] = name
	}
	return names
}

// newKey makes the line of one setting. A field without a comment shares the
// one above it, which then names both.
func newKey(path string, f *ast.Field, value any, above string) (key, error) {
	kind, err := kindOf(f.Type)
	if err != nil {
		return key{}, fmt.Errorf("%s: %w", path, err)
	}
	k := key{path: path, kind: kind, doc: oneLine(f.Doc)}
	if k.doc == "" && strings.Contains(above, f.Names[0].Name) {
		k.doc = "See above."
	}
	if k.doc == "" {
		return key{}, fmt.Errorf("%s: has no comment", path)
	}
	if k.value, err = valueText(value); err != nil {
		return key{}, fmt.Errorf("%s: %w", path, err)
	}
	if kind == "duration" {
		k.value = shortDuration(k.value)
	}
	if k.doc, err = withoutDefault(k.doc, k.value); err != nil {
		return key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// kindOf names a type as users do.
func kindOf(t ast.Expr) (string, error) {
	switch t := t.(type) {
	case *ast.Ident:
		switch t.Name {
		case "string":
			return "text", nil
		case "int", "int64", "int32", "uint32", "uint64":
			return "integer", nil
		case "float64":
			return "number", nil
		case "bool":
			return "true or false", nil
		case "Duration":
			return "duration", nil
		}
	case *ast.SelectorExpr:
		if t.Sel.Name == "Text" { // of package secret
			return "text", nil
		}
	case *ast.ArrayType:
		if id, ok := t.Elt.(*ast.Ident); ok && ast.IsExported(id.Name) {
			return "list", nil // of what has a section of its own
		}
		inner, err := kindOf(t.Elt)
		return "list of " + inner, err
	case *ast.MapType:
		inner, err := kindOf(t.Value)
		return "map of " + inner, err
	}
	return "", errors.New("no word for its type: add one to kindOf")
}

// valueText is a default as a user would write it, "" for nothing.
func valueText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case map[string]any:
		if len(v) == 0 {
			return "", nil
		}
	case []any:
		if len(v) == 0 {
			return "", nil
		}
	}
	b, err := yaml.MarshalWithOptions(v, yaml.Flow(true))
	text := strings.TrimSpace(string(b))
	return strings.Trim(text, `"`), err
}

// shortDuration is 168h0m0s as people write it.
func shortDuration(s string) string {
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

// stated finds a default in a comment, such as "Default: 10s.", "Default: 5
// (the least)." (a list in brackets) or, with what it means, "Default 0: the profile's."
var stated = regexp.MustCompile(`(?:^| )Default(?: ([^ :]+))?: (\[[^\]]*\][.,;]?|[^ ]+)`)

// withoutDefault checks the default that a comment states, and leaves it out
// where that is all it says, for the table has a column for it.
func withoutDefault(doc, value string) (string, error) {
	m := stated.FindStringSubmatchIndex(doc)
	if m == nil {
		return doc, nil
	}
	word := doc[m[4]:m[5]]
	said := strings.TrimRight(word, ".,;")
	meaning := m[2] >= 0
	if meaning {
		said = doc[m[2]:m[3]]
	}
	if said == `""` || said == "none" {
		said = ""
	}
	if said != value {
		return "", fmt.Errorf("the comment says that the default is %q, but it is %q", said, value)
	}
	if meaning || !strings.HasSuffix(word, ".") {
		return doc, nil
	}
	return strings.TrimSpace(doc[:m[0]] + doc[m[1]:]), nil
}

// compound is a Go name that can't be an ordinary word.
var compound = regexp.MustCompile(`\b[A-Z]+[a-z]+[A-Z]\w*\b|\b[A-Z]{2,}[a-z]\w*\b`)

// withKeys says keys where the comment says fields, and leaves out the field
// itself, which stands beside it: "Address is host:port." becomes "host:port."
func withKeys(doc, field string, keys map[string]string) string {
	doc = compound.ReplaceAllStringFunc(predicate(doc, field), func(word string) string {
		if k := keys[word]; k != "" {
			return "`" + k + "`"
		}
		return word
	})
	return strings.NewReplacer(` Default "": none.`, "", `Default "":`, "Empty:", "|", `\|`, "<", "&lt;").Replace(doc)
}

// predicate is a comment without the name that it begins with.
func predicate(doc, name string) string {
	rest, ok := strings.CutPrefix(doc, name+" ")
	if !ok || strings.HasPrefix(rest, "and ") {
		return doc
	}
	rest = strings.TrimPrefix(strings.TrimPrefix(rest, "is "), "are ")
	first, others, _ := strings.Cut(rest, " ")
	if strings.ContainsAny(first, ":,") || strings.HasPrefix(others, "or ") {
		return rest // values rather than words: "host:port", "text or json"
	}
	return strings.ToUpper(rest[:1]) + rest[1:]
}

func oneLine(c *ast.CommentGroup) string {
	if c == nil {
		return ""
	}
	return strings.Join(strings.Fields(c.Text()), " ")
}

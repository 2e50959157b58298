// Package plainyaml parses YAML that people write and that may be hostile:
// rate cards, rules, configurations. They are mappings, lists and scalars, and
// nothing else is taken. go-yaml panics where a tag does not fit its value,
// aliases make much out of little, and its parser takes quadratic time, and
// memory on the stack, for what is nested deeply.
package plainyaml

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Refused says at which line a text has what is not taken. It is an error
// beside those of the parser, which are [yaml.Error]s.
type Refused struct {
	Line   int
	Reason string
}

// Error names the line first.
func (r *Refused) Error() string { return fmt.Sprintf("line %d: %s", r.Line, r.Reason) }

// ErrDocuments says that there is more than one document.
var ErrDocuments = errors.New("there is more than one document: put everything into one")

// Parse parses a text of one document. The document's body is nil where the
// text says nothing. The caller bounds the text's length.
func Parse(source []byte) (*ast.File, error) {
	if line := nestedAt(source); line > 0 {
		return nil, &Refused{line, "is nested too deeply: lists of mappings are wanted, and no more"}
	}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return nil, err
	}
	if len(file.Docs) > 1 {
		return nil, ErrDocuments
	}
	if len(file.Docs) == 0 {
		file.Docs = []*ast.DocumentNode{{BaseNode: &ast.BaseNode{}}}
	}
	if body := file.Docs[0].Body; body != nil {
		var odd oddities
		ast.Walk(&odd, body)
		if odd.line > 0 {
			return nil, &Refused{odd.line, "tags, anchors and aliases are not allowed"}
		}
	}
	return file, nil
}

// Decode parses a text of one document over what v points to, strictly: an
// unknown or repeated key is an error. It reports whether the text says
// anything.
func Decode(source []byte, v any) (said bool, err error) {
	file, err := Parse(source)
	if err != nil || file.Docs[0].Body == nil {
		return false, err
	}
	return true, yaml.NodeToValue(file.Docs[0].Body, v, yaml.Strict())
}

// oddities finds the first line with a tag, an anchor or an alias.
type oddities struct{ line int }

// Visit implements ast.Visitor.
func (o *oddities) Visit(n ast.Node) ast.Visitor {
	switch n.Type() {
	case ast.TagType, ast.AnchorType, ast.AliasType, ast.MergeKeyType:
		if o.line == 0 {
			o.line = n.GetToken().Position.Line
		}
		return nil
	default:
		return o
	}
}

// nestedAt is the first line that opens far more brackets, or entries within
// entries, than anybody writes, or 0.
func nestedAt(source []byte) int {
	const most = 64
	line, open, dashes := 1, 0, 0
	for i, c := range source {
		switch c {
		case '\n':
			line++
			dashes = 0
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		case '-', '?':
			if i+1 < len(source) && source[i+1] == ' ' {
				dashes++
			}
		}
		if open > most || dashes > most {
			return line
		}
	}
	return 0
}

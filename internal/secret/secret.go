// Package secret keeps secrets out of logs, errors and dumps of a
// configuration. A [Text] can be read by [Text.Reveal] alone; every other way
// of writing it down yields [Redacted].
package secret

import (
	"fmt"
	"log/slog"
)

// Redacted stands where a secret would.
const Redacted = "(secret)"

// Text is a secret: a token, a password, the value of a header. It is read from
// YAML like a string. The zero Text is no secret, and is written as "".
type Text string

// Reveal is the secret itself, for the one place that sends or compares it.
func (t Text) Reveal() string { return string(t) }

// String hides the secret.
func (t Text) String() string {
	if t == "" {
		return ""
	}
	return Redacted
}

// Format hides the secret from every verb.
func (t Text) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue hides the secret from slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText hides the secret from JSON and what else asks for text.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalYAML hides the secret from dumps of a configuration.
func (t Text) MarshalYAML() (any, error) { return t.String(), nil }

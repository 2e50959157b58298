package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/internal/secret"
)

// No usual way of writing a value down shows a secret, wherever it lies.
func TestSecretsAreNotWritten(t *testing.T) {
	const plain = "hunter2-hunter2"
	type config struct {
		Password secret.Text
		Headers  map[string]secret.Text
	}
	c := config{plain, map[string]secret.Text{"Authorization": plain}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, c)
		fmt.Fprintf(&out, verb, &c)
		fmt.Fprintf(&out, verb, c.Password)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("config", "config", c, "password", c.Password, "headers", c.Headers)
	}
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		b, err := marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, shown := range []string{plain, fmt.Sprintf("%x", plain)} {
		if strings.Contains(out.String(), shown) {
			t.Errorf("shown as %s in\n%s", shown, out.String())
		}
	}
	if n := strings.Count(out.String(), secret.Redacted); n < 20 {
		t.Errorf("%d secrets redacted: the test writes more", n)
	}
	if c.Password.Reveal() != plain {
		t.Error("a secret cannot be read")
	}
}

func TestSecretsAreRead(t *testing.T) {
	var c struct {
		Token secret.Text `yaml:"token"`
	}
	if err := yaml.Unmarshal([]byte("token: abc"), &c); err != nil || c.Token.Reveal() != "abc" {
		t.Error(c.Token.Reveal(), err)
	}
	var none secret.Text
	if fmt.Sprint(none) != "" {
		t.Error("no secret is written as one")
	}
}

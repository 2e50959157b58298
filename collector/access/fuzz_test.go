package access_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/collector/access"
)

// A file of tokens is refused or its tokens are taken; nothing in it lets in
// who shows something else.
func FuzzTokens(f *testing.F) {
	token := access.NewToken()
	sum, err := access.HashToken(token)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"", "tokens: []", "tokens:\n- {name: a, sha256: " + sum + ", role: viewer}",
		"tokens:\n- {name: a, sha256: " + sum + ", role: admin, teams: [x, y], clusters: ['*'], expires: '2027-01-31T00:00:00Z'}",
		"tokens:\n- {name: a, sha256: '', role: admin}", "tokens:\n- &a {name: a}\n- *a\n", "tokens: {a: b}", "\x00", "tokens:\n- null",
	} {
		f.Add([]byte(text))
	}
	now := time.Unix(1_700_000_000, 0)
	file := filepath.Join(f.TempDir(), "tokens.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		tokens, err := access.OpenTokens(file, func() time.Time { return now }, log)
		if err != nil {
			return
		}
		g := access.NewGuard(access.Config{Tokens: tokens, Now: func() time.Time { return now }, Log: log})
		for _, shown := range []string{"Bearer ", "Bearer x", "Bearer " + access.NewToken().Reveal(), "Basic eDp5"} {
			if c, err := g.Caller(t.Context(), access.Shown{Peer: "192.0.2.1:1", Authorization: []string{shown}}); err == nil {
				t.Fatalf("%q is %s", shown, c.Name)
			}
		}
		if c, err := g.Caller(t.Context(), access.Shown{}); err == nil {
			t.Fatalf("nobody is %s", c.Name)
		}
	})
}

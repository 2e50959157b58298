package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/internal/plainyaml"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// TokenPrefix begins the tokens that [NewToken] makes, so that scanners for
// leaked secrets find them.
const TokenPrefix = "gpl_"

const (
	// minToken is how many bytes a token has at least: what people make up is
	// shorter, and can be guessed.
	minToken = 32
	// maxToken bounds any bearer token, in bytes. A JWT with many groups has
	// several thousand.
	maxToken = 16 << 10
	// maxTokens is how many a file may hold: all are compared each time.
	maxTokens = 1000
	// maxTokenFile bounds the file, in bytes.
	maxTokenFile = 1 << 20
)

// NewToken makes a token of 256 random bits.
func NewToken() secret.Text {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return secret.Text(TokenPrefix + base64.RawURLEncoding.EncodeToString(b[:]))
}

// HashToken is what a file of tokens holds of one: SHA-256 in hex. A token is
// random, so that a slow hash would add nothing.
func HashToken(t secret.Text) (string, error) {
	if n := len(t); n < minToken || n > maxToken {
		return "", fmt.Errorf("the token has %d bytes: want %d or more, at random (gpuledger token create makes one)", n, minToken)
	}
	if strings.ContainsFunc(t.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("a token has printable ASCII characters without spaces only")
	}
	sum := sha256.Sum256([]byte(t))
	return hex.EncodeToString(sum[:]), nil
}

// TokenEntry is a token as a file has it.
type TokenEntry struct {
	Name   string `yaml:"name"`
	SHA256 string `yaml:"sha256"`
	Role   string `yaml:"role"`
	// Limits; none: of all.
	Clusters   []string `yaml:"clusters,omitempty"`
	Namespaces []string `yaml:"namespaces,omitempty"`
	Teams      []string `yaml:"teams,omitempty"`
	// Expires ends it, in RFC 3339; "": it does not end.
	Expires string `yaml:"expires,omitempty"`
}

// YAML is the entry as an item of the list that a file is.
func (e *TokenEntry) YAML() ([]byte, error) {
	return yaml.Marshal(map[string][]*TokenEntry{"tokens": {e}})
}

// staticToken is a token that may be shown.
type staticToken struct {
	sum     [sha256.Size]byte
	caller  *Caller
	expires time.Time // zero: never
}

// parseTokens reads a file of tokens:
//
//	tokens:
//	  - name: grafana
//	    sha256: 9f86d08…
//	    role: viewer
//	    teams: [search]
func parseTokens(source []byte) ([]*staticToken, error) {
	var file struct {
		Tokens []TokenEntry `yaml:"tokens"`
	}
	if _, err := plainyaml.Decode(source, &file); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, false))
	}
	if len(file.Tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens: at most %d may be there", len(file.Tokens), maxTokens)
	}
	out := make([]*staticToken, 0, len(file.Tokens))
	for i := range file.Tokens {
		t, err := file.Tokens[i].token()
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", i+1, err)
		}
		if slices.ContainsFunc(out, func(o *staticToken) bool { return o.sum == t.sum || o.caller.Name == t.caller.Name }) {
			return nil, fmt.Errorf("token %d (%s): its name or hash is there twice", i+1, t.caller.Name)
		}
		out = append(out, t)
	}
	return out, nil
}

// Check finds what keeps an entry from being taken.
func (e *TokenEntry) Check() error {
	_, err := e.token()
	return err
}

func (e *TokenEntry) token() (*staticToken, error) {
	role, err := ParseRole(e.Role)
	if err != nil {
		return nil, err
	}
	t := &staticToken{}
	sum, err := hex.DecodeString(e.SHA256)
	if err != nil || len(sum) != len(t.sum) {
		return nil, errors.New("sha256: want 64 hex digits, as gpuledger token hash prints them")
	}
	copy(t.sum[:], sum)
	if e.Expires != "" {
		if t.expires, err = time.Parse(time.RFC3339, e.Expires); err != nil {
			return nil, errors.New("expires: want a time like 2027-01-31T00:00:00Z")
		}
	}
	t.caller, err = NewCaller(e.Name, ByToken, []Grant{{role, query.Limit{Clusters: e.Clusters, Namespaces: e.Namespaces, Teams: e.Teams}}})
	return t, err
}

// Tokens are the static tokens of a file, which is read again when it changes.
// Its methods may be called by any number of goroutines.
type Tokens struct {
	file string
	now  func() time.Time
	log  *slog.Logger

	mu      sync.Mutex
	tokens  []*staticToken
	seen    fs.FileInfo // of what tokens are from, or of what could not be read
	looked  time.Time
	wrong   time.Time // since when the file cannot be read; zero: it can
	changes uint64    // how often the tokens became others
}

const (
	// lookEvery is how often it is looked whether the file has changed.
	lookEvery = time.Second
	// graceWrong is for how long a file may be unreadable: one that is being
	// written is. Then its tokens are valid no more, for some may have been
	// taken out.
	graceWrong = 5 * time.Second
)

// OpenTokens reads a file of tokens.
func OpenTokens(file string, now func() time.Time, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{file: file, now: now, log: log}
	info, tokens, err := t.read()
	if err != nil {
		return nil, err
	}
	t.seen, t.tokens, t.looked = info, tokens, now()
	return t, nil
}

func (t *Tokens) read() (fs.FileInfo, []*staticToken, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return info, nil, fmt.Errorf("%s: anybody may write to it: chmod o-w", t.file)
	}
	source, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return info, nil, err
	}
	if len(source) > maxTokenFile {
		return info, nil, fmt.Errorf("%s: it has more than %d bytes", t.file, maxTokenFile)
	}
	tokens, err := parseTokens(source)
	if err != nil {
		return info, nil, fmt.Errorf("%s: %w", t.file, err)
	}
	return info, tokens, nil
}

// look reads the file again if it has changed.
func (t *Tokens) look(now time.Time) {
	if d := now.Sub(t.looked); d >= 0 && d < lookEvery {
		return
	}
	t.looked = now
	info, err := os.Stat(t.file)
	if err == nil && t.wrong.IsZero() && same(info, t.seen) {
		return
	}
	info, tokens, err := t.read()
	if err != nil {
		if t.wrong.IsZero() {
			t.wrong = now
		}
		if t.tokens != nil && now.Sub(t.wrong) >= graceWrong {
			t.log.Error("the file of tokens cannot be read: none of them is valid any more", "error", err)
			t.tokens, t.changes = nil, t.changes+1
		}
		return
	}
	t.log.Info("tokens were read again", "file", t.file, "tokens", len(tokens))
	t.tokens, t.seen, t.wrong, t.changes = tokens, info, time.Time{}, t.changes+1
}

func same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// caller is whose token it is. All tokens are compared, whole, whichever it is.
func (t *Tokens) caller(sum [sha256.Size]byte) (*Caller, time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.look(now)
	var found *staticToken
	for _, x := range t.tokens {
		if subtle.ConstantTimeCompare(x.sum[:], sum[:]) == 1 {
			found = x
		}
	}
	switch {
	case found == nil:
		return nil, time.Time{}, errors.New("the token is not known")
	case !found.expires.IsZero() && !now.Before(found.expires):
		return nil, time.Time{}, fmt.Errorf("the token %s has expired", found.caller.Name)
	}
	return found.caller, found.expires, nil
}

// generation changes when the tokens do.
func (t *Tokens) generation() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.look(t.now())
	return t.changes
}

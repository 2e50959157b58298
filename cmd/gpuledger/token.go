package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"

	"github.com/gpuledger/gpuledger/collector/access"
	"github.com/gpuledger/gpuledger/internal/secret"
)

// tokenSource is where the token comes from that the collector is shown.
type tokenSource struct {
	token, file string // flags and the environment
	insecure    bool   // it may go out in plain text
}

const maxTokenBytes = 16 << 10

// choose takes what was said on the command line over the environment.
func (s *tokenSource) choose(token, file bool) error {
	switch {
	case token && file:
		return usagef("--token and --token-file exclude each other")
	case token:
		s.file = ""
	case !file && s.file == "":
		s.token = os.Getenv("GPULEDGER_TOKEN")
	}
	return nil
}

// read is the token, "" where there is none. A file counts more than the
// environment.
func (s *tokenSource) read() (secret.Text, error) {
	if s.file == "" {
		return secret.Text(strings.TrimSpace(s.token)), nil
	}
	f, err := os.Open(s.file)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	defer func() { _ = f.Close() }()
	t, err := readToken(f)
	if err != nil {
		return "", fmt.Errorf("--token-file: %s: %w", s.file, err)
	}
	return t, nil
}

func readToken(r io.Reader) (secret.Text, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTokenBytes+1))
	switch {
	case err != nil:
		return "", err
	case len(b) > maxTokenBytes:
		return "", fmt.Errorf("it has more than %d bytes: that is no token", maxTokenBytes)
	}
	t := strings.TrimSpace(string(b))
	if t == "" {
		return "", errors.New("it is empty: want a token")
	}
	return secret.Text(t), nil
}

// bearer shows a token with every call.
type bearer struct {
	token    secret.Text
	insecure bool
}

var _ credentials.PerRPCCredentials = bearer{}

// GetRequestMetadata is the header.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token.Reveal()}, nil
}

// RequireTransportSecurity has gRPC refuse connections in plain text.
func (b bearer) RequireTransportSecurity() bool { return !b.insecure }

// credentials are what is shown to a collector at an address; nil: nothing. A
// token goes out in plain text only to this machine, unless it is told to.
func (s *tokenSource) credentials(addr string, plain bool) (credentials.PerRPCCredentials, error) {
	t, err := s.read()
	if err != nil || t == "" {
		return nil, err
	}
	if plain && !s.insecure && !onThisMachine(addr) {
		return nil, usagef("the token would go to %s in plain text, for anyone on the way to keep\nhint: use TLS (--ca-file or --system-ca); --insecure-token sends it all the same", addr)
	}
	return bearer{t, plain}, nil
}

func onThisMachine(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func newToken() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make tokens that programs and people show the collector",
		Long: `token makes static tokens and their hashes. The collector's file of tokens
(access.tokens_file) holds hashes only: whoever reads it has no token.
docs/access.md says who may ask what.`,
		Example: "  gpuledger token create grafana --role viewer --team search",
		RunE:    showHelp,
	}
	c.AddCommand(newTokenCreate(), newTokenHash())
	return c
}

func newTokenCreate() *cobra.Command {
	var e access.TokenEntry
	var out string
	var lasts time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token, and the entry for the collector's file",
		Long: `create makes a token of 256 random bits. The token is shown once, on standard
error (or goes into a new file with --token-output, which only you may read);
the entry for access.tokens_file goes to standard output. The collector sees
within a second that its file has changed.

Without --team, --namespace and --cluster the token is good for all of the
ledger. With several of these, an owner must be in one of each.`,
		Example: `  gpuledger token create grafana --role viewer --team search --team ads
  gpuledger token create ci --role admin --lasts 720h --token-output ./ci.token`,
		Args: exactArgs(1, "the name of who will show the token"),
		RunE: func(c *cobra.Command, args []string) error {
			e.Name = args[0]
			if lasts < 0 {
				return usagef("--lasts %v: want a time to come", lasts)
			}
			if lasts > 0 {
				e.Expires = time.Now().Add(lasts).UTC().Format(time.RFC3339)
			}
			return createToken(&e, c.OutOrStdout(), c.ErrOrStderr(), out)
		},
	}
	f := c.Flags()
	f.StringVar(&e.Role, "role", "viewer", "viewer (asks), operator (verifies, sees nodes and the audit log) or admin (changes prices and rules)")
	f.StringArrayVar(&e.Teams, "team", nil, "only what is of this team; may be given several times")
	f.StringArrayVar(&e.Namespaces, "namespace", nil, "only what is in this namespace; may be given several times")
	f.StringArrayVar(&e.Clusters, "cluster", nil, "only what is in this cluster; may be given several times")
	f.DurationVar(&lasts, "lasts", 0, "how long it is good for, like 720h (0: until it is taken out of the file)")
	f.StringVar(&out, "token-output", "", "new file for the token, in place of standard error")
	return c
}

// createToken makes a token and writes it and its entry.
func createToken(e *access.TokenEntry, stdout, stderr io.Writer, out string) error {
	t := access.NewToken()
	if err := hashInto(e, t); err != nil {
		return err
	}
	text, err := e.YAML()
	if err != nil {
		return err
	}
	if out == "" {
		if _, err := fmt.Fprintf(stderr, "The token, which is shown this once:\n\n  %s\n\nThe entry for access.tokens_file:\n\n", t.Reveal()); err != nil {
			return err
		}
	} else if err := writeNew(out, t.Reveal()+"\n"); err != nil {
		return err
	}
	_, err = stdout.Write(text)
	return err
}

// hashInto completes an entry, which is then one that the collector takes.
func hashInto(e *access.TokenEntry, t secret.Text) error {
	sum, err := access.HashToken(t)
	if err != nil {
		return usageError{err}
	}
	e.SHA256 = sum
	if err := e.Check(); err != nil {
		return usageError{err}
	}
	return nil
}

// writeNew writes a file that was not there, for its owner alone.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func newTokenHash() *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Print the hash of a token that is given on standard input",
		Long: `hash reads a token from standard input, so that it is in no list of processes
and no history, and prints its SHA-256 for access.tokens_file. Tokens should be
random: one of fewer than 32 bytes is refused.`,
		Example: "  gpuledger token hash < ci.token",
		Args:    exactArgs(0, "a token on standard input and no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := readToken(bufio.NewReader(c.InOrStdin()))
			if err != nil {
				return usagef("standard input: %w", err)
			}
			sum, err := access.HashToken(t)
			if err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), sum)
			return err
		},
	}
}

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestToken: what is sent is what the file holds now, and no file that is no
// token's is sent at all.
func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	c := CollectorConfig{Address: "127.0.0.1:1", TokenFile: file}
	if _, err := c.dialer(nil); err == nil || !strings.Contains(err.Error(), "token_file") {
		t.Errorf("without the file: %v", err)
	}
	for text, want := range map[string]string{
		"abc\n": "Bearer abc", "d.e.f": "Bearer d.e.f", "": "", "\n": "", "a b": "", "a\nb": "", "é": "", strings.Repeat("x", maxToken+1): "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		md, err := token{file: file}.GetRequestMetadata(t.Context())
		if md["authorization"] != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %v, %v", text, md, err)
		}
		if err != nil && len(text) > 1 && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the file: %v", err)
		}
	}
	if !(token{encrypted: true}).RequireTransportSecurity() {
		t.Error("a token for a connection with TLS goes out without")
	}
}

package exposition

import (
	"context"
	"io"
	"net/http"
)

// Fetch reads the page at a URL. Redirects are not followed, the whole takes
// at most l.Timeout, and a body that ends before it should is an error.
// wanted is called with every line's family name, which it must not keep.
func Fetch(
	ctx context.Context, client *http.Client, url string, header http.Header, wanted func(name []byte) bool, l Limits,
) (*Page, error) {
	return nil, io.EOF
}

// Parse reads a page.
func Parse(r io.Reader, wanted func(name []byte) bool, l Limits) (*Page, error) { return nil, io.EOF }

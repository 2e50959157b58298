package podwatch

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	listWithin = time.Minute
	pageItems  = 500
	maxPages   = 64
	// The server ends a watch after some time between this and twice this, as
	// the Kubernetes project's own clients ask for.
	watchFor = 5 * time.Minute
	// shortWatch is how short a watch without news is that something is wrong.
	shortWatch = time.Second
)

// collection is one of the API server's, such as the pods of a node.
type collection[T any] struct {
	path  string
	kind  string // of the list
	query url.Values
}

// list reads all objects, nil for one that is unfit, and returns the resource
// version that they had. The server answers from its cache.
func (c *collection[T]) list(ctx context.Context, to *client, each func(*T) error) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	q := maps.Clone(c.query)
	q.Set("limit", strconv.Itoa(pageItems))
	q.Set("resourceVersion", "0")
	for range maxPages {
		meta, err := c.page(ctx, to, q, each)
		if err != nil {
			return "", fmt.Errorf("list: %w", err)
		}
		if meta.Continue == "" {
			return meta.ResourceVersion, nil
		}
		q.Del("resourceVersion")
		q.Set("continue", meta.Continue)
	}
	return "", fmt.Errorf("list: more than %d pages", maxPages)
}

func (c *collection[T]) page(ctx context.Context, to *client, q url.Values, each func(*T) error) (listMeta, error) {
	body, err := to.get(ctx, c.path, q)
	if err != nil {
		return listMeta{}, err
	}
	defer func() { _ = body.Close() }()
	return readList(body, c.kind, each)
}

// watch tells what changes after a resource version, until the server ends the
// watch, and returns the version to go on with. Connected is called when it
// has begun.
func (c *collection[T]) watch(ctx context.Context, to *client, version string, connected func() error, each func(event string, object *T) error) (string, error) {
	lasts := watchFor + rand.N(watchFor)
	ctx, cancel := context.WithTimeout(ctx, lasts+30*time.Second)
	defer cancel()
	q := maps.Clone(c.query)
	q.Set("watch", "true")
	q.Set("resourceVersion", version)
	q.Set("allowWatchBookmarks", "true")
	q.Set("timeoutSeconds", strconv.Itoa(int(lasts/time.Second)))
	begun := time.Now()
	body, err := to.get(ctx, c.path, q)
	if err != nil {
		return version, fmt.Errorf("watch: %w", err)
	}
	defer func() { _ = body.Close() }()
	if err := connected(); err != nil {
		return version, err
	}
	next, err := readWatch(body, version, each)
	if err == nil && next == version && time.Since(begun) < shortWatch {
		err = fmt.Errorf("watch: it ended at once, without news")
	}
	return next, err
}

// expired reports whether the server no longer has what came after the
// resource version that was asked for, so that a list is needed.
func expired(err error) bool { return refused(err, http.StatusGone) }

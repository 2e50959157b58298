package podwatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Bounds of what is read. etcd keeps no object above 1.5 MiB; as JSON it may be
// twice that.
const (
	maxObjectBytes = 4 << 20
	maxListBytes   = 64 << 20
)

var errTooLarge = errors.New("too large")

// budget is a reader that bounds each object, and all together where total is
// not negative. A decoder reads ahead, so an object's bound is approximate.
type budget struct {
	r             io.Reader
	object, total int64 // bytes left
}

func (b *budget) Read(p []byte) (int, error) {
	left := b.object
	if b.total >= 0 {
		left = min(left, b.total)
	}
	if left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), left)])
	b.object -= int64(n)
	if b.total >= 0 {
		b.total -= int64(n)
	}
	return n, err
}

// decoder reads JSON values one by one, each within the bound.
type decoder struct {
	*json.Decoder
	budget *budget
}

func newDecoder(r io.Reader, total int64) decoder {
	b := &budget{r: r, object: maxObjectBytes, total: total}
	return decoder{json.NewDecoder(b), b}
}

// next reads a value. A value that is JSON but not what was expected gives an
// error for which unfit is true; reading can go on after it.
func (d decoder) next(v any) error {
	d.budget.object = maxObjectBytes
	return d.Decode(v)
}

func unfit(err error) bool {
	var kind *json.UnmarshalTypeError
	return errors.As(err, &kind) || errors.Is(err, errTooMany) || errors.Is(err, errNoList)
}

// listMeta is a list's metadata.
type listMeta struct {
	ResourceVersion string `json:"resourceVersion"`
	Continue        string `json:"continue"`
}

// readList reads a list of a kind (such as "PodList") and calls each for its
// items, nil for one that is unfit. A list that is cut short is an error.
func readList[T any](r io.Reader, kind string, each func(*T) error) (meta listMeta, err error) {
	d := newDecoder(r, maxListBytes)
	defer func() {
		if err != nil {
			err = fmt.Errorf("a list that should be a %s: %w", kind, err)
		}
	}()
	if err := d.delim('{'); err != nil {
		return meta, err
	}
	var got string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return meta, err
		}
		d.budget.object = maxObjectBytes
		switch key {
		case "kind":
			err = d.next(&got)
		case "metadata":
			err = d.next(&meta)
		case "items":
			err = readItems(d, each)
		default:
			err = d.next(new(json.RawMessage))
		}
		if err != nil {
			return meta, err
		}
	}
	if got != kind {
		return meta, fmt.Errorf("it is a %.40q", got)
	}
	return meta, d.delim('}')
}

func readItems[T any](d decoder, each func(*T) error) error {
	switch t, err := d.Token(); {
	case err != nil:
		return err
	case t == nil: // a list of none may be null
		return nil
	case t != json.Delim('['):
		return errors.New("its items are no list")
	}
	for d.More() {
		x := new(T)
		switch err := d.next(x); {
		case unfit(err):
			x = nil
		case err != nil:
			return err
		}
		if err := each(x); err != nil {
			return err
		}
	}
	return d.delim(']')
}

func (d decoder) delim(want json.Delim) error {
	d.budget.object = maxObjectBytes
	t, err := d.Token()
	if err != nil {
		return noEOF(err)
	}
	if t != want {
		return fmt.Errorf("%v instead of %v", t, want)
	}
	return nil
}

// noEOF makes the end of a reader in the middle of something an error that
// nobody takes for a good end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// change is one of a watch.
type change struct {
	Type   string          `json:"type"` // ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
	Object json.RawMessage `json:"object"`
}

// versioned is what every object of a watch has.
type versioned struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

// readWatch reads a watch and calls each for its objects, nil for one that is
// unfit. It returns the resource version to go on with, and nil where the
// server has ended the watch in good order.
func readWatch[T any](r io.Reader, version string, each func(event string, object *T) error) (string, error) {
	d := newDecoder(r, -1)
	for {
		var c change
		switch err := d.next(&c); {
		case errors.Is(err, io.EOF):
			return version, nil
		case err != nil:
			return version, fmt.Errorf("a watch: %w", err)
		}
		if c.Type == "ERROR" {
			return version, statusOf(c.Object)
		}
		var v versioned
		if err := json.Unmarshal(c.Object, &v); err == nil && v.Metadata.ResourceVersion != "" {
			version = v.Metadata.ResourceVersion
		}
		if c.Type == "BOOKMARK" {
			continue
		}
		object := new(T)
		if err := json.Unmarshal(c.Object, object); err != nil {
			object = nil
		}
		if err := each(c.Type, object); err != nil {
			return version, err
		}
	}
}

// statusError is a refusal by the API server or a kubelet.
type statusError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.Code, http.StatusText(e.Code), e.Message)
}

// statusOf reads a refusal, as JSON (an API server's) or text (a kubelet's).
func statusOf(body []byte) *statusError {
	e := &statusError{}
	if json.Unmarshal(body, e) != nil || e.Message == "" {
		e.Message = string(body)
	}
	if len(e.Message) > 512 {
		e.Message = e.Message[:512]
	}
	return e
}

// refused reports whether the error is a refusal with the HTTP status.
func refused(err error, code int) bool {
	var e *statusError
	return errors.As(err, &e) && e.Code == code
}

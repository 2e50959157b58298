package clickhouse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// client speaks ClickHouse's HTTP interface. Any number of goroutines may use
// it.
type client struct {
	http      *http.Client
	scheme    string
	addresses []string
	at        atomic.Int64 // the address that answered last
	user      string
	password  string
	database  string
	timeout   time.Duration

	version int // year*100 + month, such as 1816
	reads   url.Values
	inserts url.Values
}

func newClient(o *Options) *client {
	t := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSClientConfig: o.TLS,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 2 * time.Second, DisableCompression: true,
	}
	c := &client{
		http: &http.Client{Transport: t}, scheme: "http", addresses: o.Addresses,
		user: o.User, password: o.Password, database: o.Database, timeout: o.Timeout, reads: url.Values{}, inserts: url.Values{},
	}
	if o.TLS != nil {
		c.scheme = "https"
	}
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// answered is an error that a server gave.
type answered struct {
	code int // ClickHouse's, 0: not known
	text string
}

func (e *answered) Error() string { return e.text }

// send runs a statement on one server after the other, as long as they cannot be
// reached. retry also asks the next where the first broke off or is behind: for
// what only reads.
func (c *client) send(ctx context.Context, statement string, body []byte, settings url.Values, retry bool) (*http.Response, error) {
	var failed error
	first := c.at.Load()
	for i := range int64(len(c.addresses)) {
		at := (first + i) % int64(len(c.addresses))
		res, err := c.post(ctx, c.addresses[at], statement, body, settings)
		if err == nil {
			c.at.Store(at)
			return res, nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", c.addresses[at], err))
		var said *answered
		elsewhere := !errors.As(err, &said) || said.code == notInQuorum || said.code == allConnectionsFailed
		if !unreached(err) {
			failed = sent{failed}
		}
		if next := unreached(err) || retry && elsewhere; ctx.Err() != nil || !next {
			break
		}
	}
	return nil, failed
}

// sent is an error of a statement that a server may have.
type sent struct{ error }

func (e sent) Unwrap() error { return e.error }

// unreached reports whether a statement was never sent.
func unreached(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// Codes of ClickHouse's errors that matter here.
const (
	unsatisfiedQuorum    = 286 // of the write before: it can be tried again
	notInQuorum          = 289 // this replica is behind
	allConnectionsFailed = 279 // to another shard
)

func (c *client) post(ctx context.Context, address, statement string, body []byte, settings url.Values) (*http.Response, error) {
	v := url.Values{}
	maps.Copy(v, settings)
	payload := []byte(statement)
	if body != nil {
		v.Set("query", statement)
		payload = body
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.scheme+"://"+address+"/?"+v.Encode(), bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	if c.user != "" {
		req.Header.Set("X-ClickHouse-User", c.user)
		req.Header.Set("X-ClickHouse-Key", c.password)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	text, rerr := io.ReadAll(io.LimitReader(res.Body, 4096))
	e := &answered{text: fmt.Sprintf("%s: %.1000s", res.Status, bytes.TrimSpace(text))}
	if rest, ok := strings.CutPrefix(string(text), "Code: "); ok {
		digits, _, _ := strings.Cut(rest, ",")
		digits, _, _ = strings.Cut(digits, ".")
		e.code, _ = strconv.Atoi(digits) // 0 where it is none
	}
	return nil, errors.Join(e, rerr, res.Body.Close())
}

// exec runs a statement that yields nothing, and may as well run twice.
func (c *client) exec(ctx context.Context, statement string) (err error) {
	defer func(caller context.Context) { err = tooLate(caller, err) }(ctx)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.send(ctx, statement, nil, url.Values{"database": {c.database}}, true)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

// insertTries is how often an insert waits for another's quorum.
const insertTries = 40

// insert adds rows in RowBinary. A statement that the server is known to have
// refused, for another's write is on its way, is tried again.
func (c *client) insert(ctx context.Context, table, columns string, rows []byte) error {
	_, err := c.write(ctx, `INSERT INTO `+table+` (`+columns+`) FORMAT RowBinary`, rows)
	return err
}

// write runs an INSERT. again says that it took several tries: of a table on
// several shards, one may have taken its rows more than once.
func (c *client) write(ctx context.Context, statement string, rows []byte) (again bool, err error) {
	defer func(caller context.Context) { err = tooLate(caller, err) }(ctx)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for try := 1; ; try++ {
		res, err := c.send(ctx, statement, rows, c.inserts, false)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			return try > 1, errors.Join(err, res.Body.Close())
		}
		var said *answered
		if !errors.As(err, &said) || said.code != unsatisfiedQuorum || try == insertTries {
			return try > 1, err
		}
		wait := time.NewTimer(25 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return try > 1, errors.Join(err, ctx.Err())
		}
	}
}

// now is the servers' time.
func (c *client) now(ctx context.Context) (now attribution.Second, err error) {
	err = c.query(ctx, `SELECT toInt64(toUnixTimestamp(now()))`, func(d *decoder) error {
		now = attribution.Second(d.i64())
		return d.err
	})
	return now, err
}

// query calls f once for each row of an answer in RowBinary: f decodes exactly
// one. The server sends an answer when all of it is there, so that an error in
// the middle is never taken for its end.
func (c *client) query(ctx context.Context, statement string, f func(*decoder) error) (err error) {
	defer func(caller context.Context) { err = tooLate(caller, err) }(ctx)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.send(ctx, statement+` FORMAT RowBinary`, nil, c.reads, true)
	if err != nil {
		return err
	}
	d := &decoder{r: bufio.NewReaderSize(res.Body, 64<<10)}
	for {
		if _, err = d.r.Peek(1); err != nil {
			break
		}
		if err = f(d); err == nil {
			err = d.err
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) && d.err == nil {
		err = nil
	}
	return errors.Join(err, res.Body.Close())
}

// tooLate tells a server that takes too long from a caller who has gone: it is
// worth trying again.
func tooLate(caller context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && caller.Err() == nil {
		return fmt.Errorf("the server takes too long: %s", err.Error())
	}
	return err
}

// unavailable says that an operation failed and may be tried again, unless the
// batch was bad, the answer too large, or the caller gave up.
func unavailable(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, e := range []error{
		store.ErrBadBatch, store.ErrTooMany, store.ErrUnavailable, store.ErrCorrupt, store.ErrOutdated, store.ErrDuplicate,
		store.ErrTooFine, store.ErrNotFound, store.ErrNotEmpty, store.ErrUnfinished, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("store: %s: %w", what, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", store.ErrUnavailable, what, err)
}

package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Certificates say how a client certificate names the node that it is for.
type Certificates struct {
	uri, dns, commonName *pattern
	cluster              string
}

// pattern is an expression that takes what comes first as long as it can be, and
// one that takes it as short: where {node}.{cluster} can be cut in two ways, the
// two differ, and the name is nobody's.
type pattern [2]*regexp.Regexp

// Patterns are where a name may be; what is "" is not looked at. {node} stands
// for the node's name and must be there, {cluster} for the cluster's.
type Patterns struct {
	URI        string // spiffe://example.org/cluster/{cluster}/node/{node}
	DNS        string // {node}.nodes.example.org
	CommonName string // system:node:{node}
	// Cluster is that of names without {cluster}; AnyCluster is any.
	Cluster string
}

// NewCertificates reads patterns; nil is none at all.
func NewCertificates(p Patterns) (*Certificates, error) {
	c := &Certificates{cluster: p.Cluster}
	any := false
	for _, x := range []struct {
		key, pattern string
		to           **pattern
	}{{"uri", p.URI, &c.uri}, {"dns", p.DNS, &c.dns}, {"common_name", p.CommonName, &c.commonName}} {
		if x.pattern == "" {
			continue
		}
		var err error
		if *x.to, err = compile(x.pattern); err != nil {
			return nil, fmt.Errorf("%s: %w", x.key, err)
		}
		any = true
	}
	if !any {
		return nil, nil
	}
	return c, nil
}

// name is what may stand for {node} or {cluster}: no separator of URIs, and
// nothing escaped.
const name = `([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)`

// compile makes an expression of a pattern, whose groups are called as what
// they stand for.
func compile(text string) (*pattern, error) {
	if strings.Count(text, "{node}") != 1 || strings.Count(text, "{cluster}") > 1 {
		return nil, fmt.Errorf("%q: want {node} in it once, and {cluster} at most once", text)
	}
	if strings.Contains(text, "}{") {
		return nil, fmt.Errorf("%q: want something between {cluster} and {node}", text)
	}
	e := regexp.QuoteMeta(text)
	for _, group := range []string{"node", "cluster"} {
		e = strings.Replace(e, `\{`+group+`\}`, strings.Replace(name, "(", "(?P<"+group+">", 1), 1)
	}
	if strings.ContainsAny(strings.NewReplacer("{node}", "", "{cluster}", "").Replace(text), "{}") {
		return nil, fmt.Errorf("%q: only {node} and {cluster} are known", text)
	}
	var p pattern
	for i, flags := range []string{"", "(?U)"} {
		var err error
		if p[i], err = regexp.Compile(flags + "^" + e + "$"); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// identify reads the node out of a verified certificate.
func (c *Certificates) identify(cert *x509.Certificate) (Identity, error) {
	found := map[Identity]bool{}
	look := func(p *pattern, text string) {
		if p == nil {
			return
		}
		for _, e := range p {
			m := e.FindStringSubmatch(text)
			if m == nil {
				return
			}
			id := Identity{Cluster: c.cluster, Node: m[e.SubexpIndex("node")], By: "certificate", Until: cert.NotAfter}
			if i := e.SubexpIndex("cluster"); i >= 0 {
				id.Cluster = m[i]
			}
			found[id] = true
		}
	}
	for _, u := range cert.URIs {
		look(c.uri, u.String())
	}
	for _, n := range cert.DNSNames {
		look(c.dns, strings.ToLower(n))
	}
	look(c.commonName, cert.Subject.CommonName)
	switch len(found) {
	case 1:
		for id := range found {
			return id, nil
		}
	case 0:
		return Identity{}, status.Errorf(codes.PermissionDenied, "the certificate of %q names no node\n"+
			"hint: an agent needs one of its own node, named as ingest_access.certificates of the collector says", short(cert.Subject.String()))
	}
	return Identity{}, status.Errorf(codes.PermissionDenied, "the certificate of %q may name several nodes: want one", short(cert.Subject.String()))
}

// Check finds what is wrong with patterns.
func (p Patterns) Check() error {
	c, err := NewCertificates(p)
	if err == nil && c != nil && p.Cluster == "" {
		err = errors.New("the cluster must not be empty: name one, or * for any")
	}
	return err
}

// Package certstest makes authorities and certificates for tests.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues certificates.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// PEM is the authority's own certificate.
	PEM []byte
}

// New makes an authority.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	must(t, err)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// Leaf is what a certificate says. The zero value is valid for an hour, for
// 127.0.0.1 and localhost.
type Leaf struct {
	CommonName          string
	DNS                 []string
	URIs                []string
	NotBefore, NotAfter time.Time
	ServerOnly          bool // not for clients
}

// Issue makes a certificate and its key, in PEM.
func (a *Authority) Issue(l Leaf) (cert, key []byte) {
	a.t.Helper()
	if l.NotAfter.IsZero() {
		l.NotAfter = time.Now().Add(time.Hour)
	}
	if l.NotBefore.IsZero() {
		l.NotBefore = time.Now().Add(-time.Minute)
	}
	template := &x509.Certificate{
		SerialNumber: serial(a.t), Subject: pkix.Name{CommonName: l.CommonName}, NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		DNSNames: append([]string{"localhost"}, l.DNS...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if !l.ServerOnly {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, text := range l.URIs {
		u, err := url.Parse(text)
		must(a.t, err)
		template.URIs = append(template.URIs, u)
	}
	k := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	must(a.t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// Files are where a certificate, its key and the authority are.
type Files struct{ Dir, Cert, Key, CA string }

// Mount lays a certificate out as a mounted Secret is: files behind a symbolic
// link, which Swap puts elsewhere.
func (a *Authority) Mount(l Leaf) *Files {
	a.t.Helper()
	dir := a.t.TempDir()
	f := &Files{Dir: dir, Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	cert, key := a.Issue(l)
	f.Swap(a.t, cert, key, a.PEM)
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		must(a.t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	return f
}

// Swap replaces all files at once, as the kubelet does.
func (f *Files) Swap(t testing.TB, cert, key, ca []byte) {
	t.Helper()
	dir, err := os.MkdirTemp(f.Dir, "..2026")
	must(t, err)
	for name, b := range map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": ca} {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	link := filepath.Join(f.Dir, "..data_tmp")
	must(t, os.Symlink(filepath.Base(dir), link))
	must(t, os.Rename(link, filepath.Join(f.Dir, "..data")))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

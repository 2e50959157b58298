package otlp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/gpuledger/gpuledger/agent/exporter"
	"github.com/gpuledger/gpuledger/agent/exporter/exportertest"
	"github.com/gpuledger/gpuledger/agent/exporter/otlp"
)

// authority makes an authority that is also a server's and a client's
// certificate, and its files.
func authority(t *testing.T) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, "CERTIFICATE", der)
	write(keyFile, "EC PRIVATE KEY", keyDER)
	if cert, err = tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return cert, certFile, keyFile
}

func TestTLSBothWays(t *testing.T) {
	cert, certFile, keyFile := authority(t)
	_, strangerFile, _ := authority(t)
	trusted := x509.NewCertPool()
	pem, err := os.ReadFile(certFile)
	if err != nil || !trusted.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	r := receive(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})))
	for _, tc := range []struct {
		name string
		o    otlp.Options
		want uint64
	}{
		{"both known", otlp.Options{CAFile: certFile, CertFile: certFile, KeyFile: keyFile}, 1},
		{"no client certificate", otlp.Options{CAFile: certFile}, 0},
		{"another authority", otlp.Options{CAFile: strangerFile, CertFile: certFile, KeyFile: keyFile}, 0},
		{"the system's authorities", otlp.Options{}, 0},
		{"plain text", otlp.Options{Insecure: true}, 0},
	} {
		e := newExporter(t, exporter.Options{})
		tc.o.Endpoint = r.addr
		p := newPusher(t, e, tc.o)
		e.Add(exportertest.Episode(0))
		p.Push(t.Context())
		if s := p.Stats(); s.Pushes != tc.want || s.Failures != 1-tc.want {
			t.Errorf("%s: %+v", tc.name, s)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Certificates are renewed under a running agent.
func TestTheClientsCertificateIsReadForEachConnection(t *testing.T) {
	cert, certFile, keyFile := authority(t)
	_, oldCert, oldKey := authority(t)
	trusted := x509.NewCertPool()
	pem, err := os.ReadFile(certFile)
	if err != nil || !trusted.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	r := receive(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})))
	e := newExporter(t, exporter.Options{})
	p := newPusher(t, e, otlp.Options{Endpoint: r.addr, CAFile: certFile, CertFile: oldCert, KeyFile: oldKey})
	defer p.Close()
	for renewed, old := range map[string]string{certFile: oldCert, keyFile: oldKey} {
		if err := os.Rename(renewed, old); err != nil {
			t.Fatal(err)
		}
	}
	e.Add(exportertest.Episode(0))
	p.Push(t.Context())
	if s := p.Stats(); s.Pushes != 1 {
		t.Errorf("%+v", s)
	}
}

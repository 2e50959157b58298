package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// selfSigned makes a certificate for loopback, and its files.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	cert, key := selfSigned(t)
	other, otherKey := selfSigned(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil || !trusted.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	encrypted := serve(t, &fakeLedger{}, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})))
	mutual := serve(t, &fakeLedger{}, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	})))
	plain := serve(t, &fakeLedger{})
	for _, c := range []struct {
		name string
		args []string
		want int
		say  string
	}{
		{"checked", []string{"--collector", encrypted, "--ca-file", cert}, exitOK, ""},
		{"both ways", []string{"--collector", mutual, "--ca-file", cert, "--cert-file", cert, "--key-file", key}, exitOK, ""},
		{"another's certificate", []string{"--collector", encrypted, "--ca-file", other}, exitFailure, "answers, but not as told: tls: failed to verify certificate"},
		{"not the system's", []string{"--collector", encrypted, "--system-ca"}, exitFailure, "failed to verify certificate"},
		{"plain text to TLS", []string{"--collector", encrypted}, exitFailure, "give --ca-file or --system-ca"},
		{"TLS to plain text", []string{"--collector", plain, "--ca-file", cert}, exitFailure, "must agree on TLS"},
		{"a stranger", []string{"--collector", mutual, "--ca-file", cert, "--cert-file", other, "--key-file", otherKey}, exitFailure, "hint:"},
		{"no file", []string{"--collector", encrypted, "--ca-file", cert + "x"}, exitFailure, "no such file"},
		{"no certificate", []string{"--collector", encrypted, "--ca-file", key}, exitFailure, "holds no certificate in PEM"},
		{"half a pair", []string{"--collector", encrypted, "--cert-file", cert}, exitUsage, "come together"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"report"}, c.args...), &stdout, &stderr)
		if code != c.want || !strings.Contains(stderr.String(), c.say) {
			t.Errorf("%s: exit code %d, %q, want %d, %q", c.name, code, &stderr, c.want, c.say)
		}
	}
}

package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// pki is the cluster's certificate authority and where its files are.
type pki struct {
	dir    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// newPKI makes the certificates and kubeconfigs of a one-node cluster.
func newPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pki{dir: dir}
	local, node, api := net.IPv4(127, 0, 0, 1), net.ParseIP(nodeIP), net.ParseIP(apiIP)
	err := p.authority()
	for _, c := range []struct {
		file, name, group string
		ips               []net.IP
		names             []string
	}{
		{"apiserver", "kube-apiserver", "", []net.IP{local, node, api}, []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}},
		{"kubelet-server", NodeName, "", []net.IP{local, node}, []string{NodeName}},
		{"apiserver-kubelet", "kube-apiserver-kubelet", "system:masters", nil, nil},
		{"admin", "admin", "system:masters", nil, nil},
		{"controller-manager", "system:kube-controller-manager", "", nil, nil},
		{"scheduler", "system:kube-scheduler", "", nil, nil},
		{"kubelet", "system:node:" + NodeName, "system:nodes", nil, nil},
	} {
		if err == nil {
			err = p.issue(c.file, pkix.Name{CommonName: c.name, Organization: group(c.group)}, c.ips, c.names)
		}
	}
	for _, user := range []string{"admin", "controller-manager", "scheduler", "kubelet"} {
		if err == nil {
			err = p.kubeconfig(user)
		}
	}
	if err == nil {
		err = p.serviceAccountKey()
	}
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificates: %w", err)
	}
	return p, nil
}

func group(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// path is that of a file of the PKI.
func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) template(subject pkix.Name) *x509.Certificate {
	p.serial++
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: subject,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(7 * 24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func (p *pki) authority() error {
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	p.ca = p.template(pkix.Name{CommonName: "kube-test-ca"})
	p.ca.IsCA, p.ca.BasicConstraintsValid = true, true
	p.ca.KeyUsage |= x509.KeyUsageCertSign
	p.ca.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, p.ca, p.ca, &p.key.PublicKey, p.key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	return writePEM(p.path("ca.crt"), "CERTIFICATE", der)
}

// issue writes NAME.crt and NAME.key.
func (p *pki) issue(name string, subject pkix.Name, ips []net.IP, names []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := p.template(subject)
	t.IPAddresses, t.DNSNames = ips, names
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, &key.PublicKey, p.key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(p.path(name+".crt"), "CERTIFICATE", der), writePEM(p.path(name+".key"), "EC PRIVATE KEY", private))
}

// serviceAccountKey writes the pair that tokens are signed and checked with.
func (p *pki) serviceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err1 := x509.MarshalECPrivateKey(key)
	public, err2 := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return errors.Join(writePEM(p.path("sa.key"), "EC PRIVATE KEY", private), writePEM(p.path("sa.pub"), "PUBLIC KEY", public))
}

func (p *pki) kubeconfig(user string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: kube, cluster: {server: "https://%s:443", certificate-authority: %s}}]
users: [{name: %s, user: {client-certificate: %s, client-key: %s}}]
contexts: [{name: kube, context: {cluster: kube, user: %[3]s}}]
current-context: kube
`, nodeIP, p.path("ca.crt"), user, p.path(user+".crt"), p.path(user+".key"))
	return os.WriteFile(p.path(user+".conf"), []byte(text), 0o600)
}

func writePEM(name, kind string, der []byte) error {
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

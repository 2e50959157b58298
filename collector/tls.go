package collector

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// config is nil where there is no TLS.
func (t *TLSConfig) config() (*tls.Config, error) {
	if t.CertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: tls.cert_file: %w", ErrConfig, err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	if t.ClientCAFile == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(t.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("%w: tls.client_ca_file: %w", ErrConfig, err)
	}
	conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: tls.client_ca_file: no certificate in it (want PEM)", ErrConfig)
	}
	return conf, nil
}

func (t *TLSConfig) credentials() (credentials.TransportCredentials, error) {
	conf, err := t.config()
	if err != nil {
		return nil, err
	}
	if conf == nil {
		return insecure.NewCredentials(), nil
	}
	return credentials.NewTLS(conf), nil
}

// wrap takes the listener over: it is closed where there is an error.
func (t *TLSConfig) wrap(l net.Listener) (net.Listener, error) {
	conf, err := t.config()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if conf == nil {
		return l, nil
	}
	conf.NextProtos = []string{"http/1.1"}
	return tls.NewListener(l, conf), nil
}

package podwatch

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"
)

// server finds the API server: as a kubeconfig file says, or, without one, as
// Kubernetes tells every pod.
func server(kubeconfig string) (*access, error) {
	if kubeconfig != "" {
		return readKubeconfig(kubeconfig)
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("%w: this is no pod (KUBERNETES_SERVICE_HOST is not set), and no kubeconfig is given", errAbsent)
	}
	return &access{
		base:   &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)},
		caFile: serviceAccountCA, tokenFile: serviceAccountToken, throughEnv: true,
	}, nil
}

// kubeconfig is the part of a kubeconfig file that is understood: programs that
// fetch credentials are not run.
type kubeconfig struct {
	Current  string `yaml:"current-context"`
	Contexts []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster string `yaml:"cluster"`
			User    string `yaml:"user"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server     string  `yaml:"server"`
			CAFile     string  `yaml:"certificate-authority"`
			CA         pemData `yaml:"certificate-authority-data"`
			ServerName string  `yaml:"tls-server-name"`
			Insecure   bool    `yaml:"insecure-skip-tls-verify"`
			Proxy      string  `yaml:"proxy-url"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string `yaml:"name"`
		User struct {
			Token     string  `yaml:"token"`
			TokenFile string  `yaml:"tokenFile"`
			CertFile  string  `yaml:"client-certificate"`
			Cert      pemData `yaml:"client-certificate-data"`
			KeyFile   string  `yaml:"client-key"`
			Key       pemData `yaml:"client-key-data"`
			Exec      any     `yaml:"exec"`
			Provider  any     `yaml:"auth-provider"`
			Username  string  `yaml:"username"`
		} `yaml:"user"`
	} `yaml:"users"`
}

func readKubeconfig(file string) (*access, error) {
	b, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	a, err := parseKubeconfig(b, filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", file, err)
	}
	return a, nil
}

// parseKubeconfig reads the current context. Relative paths begin at dir.
func parseKubeconfig(b []byte, dir string) (*access, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(b, &k); err != nil {
		return nil, err
	}
	path := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	var cluster, user string
	found := false
	for _, c := range k.Contexts {
		if c.Name == k.Current {
			cluster, user, found = c.Context.Cluster, c.Context.User, true
		}
	}
	if !found {
		return nil, fmt.Errorf("no context %q, which is the current one", k.Current)
	}
	a := &access{throughEnv: true}
	for _, c := range k.Clusters {
		if c.Name != cluster {
			continue
		}
		u, err := url.Parse(c.Cluster.Server)
		if err != nil || u.Host == "" || c.Cluster.Proxy != "" {
			return nil, fmt.Errorf("cluster %q: a server's URL is needed, and no proxy-url: the proxy is named by the environment", cluster)
		}
		a.base, a.ca, a.caFile = u, c.Cluster.CA, path(c.Cluster.CAFile)
		a.serverName, a.insecure = c.Cluster.ServerName, c.Cluster.Insecure
	}
	if a.base == nil {
		return nil, fmt.Errorf("no cluster %q", cluster)
	}
	for _, u := range k.Users {
		if u.Name != user {
			continue
		}
		if u.User.Exec != nil || u.User.Provider != nil || u.User.Username != "" {
			return nil, fmt.Errorf("user %q: only tokens, token files and client certificates are understood", user)
		}
		a.token, a.tokenFile = u.User.Token, path(u.User.TokenFile)
		a.cert, a.certFile, a.key, a.keyFile = u.User.Cert, path(u.User.CertFile), u.User.Key, path(u.User.KeyFile)
	}
	if (a.cert == nil && a.certFile == "") != (a.key == nil && a.keyFile == "") {
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	}
	return a, nil
}

// pemData is bytes that a file has in base64.
type pemData []byte

// UnmarshalText decodes it.
func (b *pemData) UnmarshalText(text []byte) error {
	d, err := base64.StdEncoding.DecodeString(string(text))
	if len(d) > 0 {
		*b = d
	}
	return err
}

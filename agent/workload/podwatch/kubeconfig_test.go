package podwatch

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestKubeconfig(t *testing.T) {
	const rest = `
clusters:
- {name: other, cluster: {server: "https://other"}}
- {name: k, cluster: {server: "https://api:6443", certificate-authority: ca.crt, tls-server-name: kubernetes}}
users:
- {name: u, user: {tokenFile: /tokens/t}}
- {name: certs, user: {client-certificate: pki/c.pem, client-key: /pki/k.pem}}
- {name: data, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}
- {name: half, user: {client-certificate: c.pem}}
- {name: exec, user: {exec: {command: aws}}}
`
	at := func(user string) string {
		return "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: " + user + "}}]" + rest
	}
	a, err := parseKubeconfig([]byte(at("u")), "/etc/agent")
	if err != nil {
		t.Fatal(err)
	}
	if a.base.String() != "https://api:6443" || a.caFile != "/etc/agent/ca.crt" || a.serverName != "kubernetes" || a.tokenFile != "/tokens/t" || a.insecure {
		t.Errorf("%+v", a)
	}
	a, err = parseKubeconfig([]byte(at("certs")), "/etc/agent")
	if err != nil || a.certFile != "/etc/agent/pki/c.pem" || a.keyFile != "/pki/k.pem" || a.token+a.tokenFile != "" {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = parseKubeconfig([]byte(at("data")), "/etc/agent")
	if err != nil || string(a.cert) != "cert" || string(a.key) != "key" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := a.certificate(); err == nil {
		t.Error("a certificate that is none was taken")
	}
	for name, text := range map[string]string{
		"no YAML":    "\t{",
		"empty":      "",
		"no context": strings.Replace(at("u"), "name: c,", "name: d,", 1),
		"no cluster": strings.Replace(at("u"), "cluster: k", "cluster: none", 1),
		"no server":  strings.Replace(at("u"), "https://api:6443", "", 1),
		"exec":       at("exec"),
		"no key":     at("half"),
		"no base64":  strings.Replace(at("data"), "Y2VydA==", "%", 1),
	} {
		if _, err := parseKubeconfig([]byte(text), "/"); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if _, err := readKubeconfig(t.TempDir() + "/none"); err == nil {
		t.Error("a file that is not there was read")
	}
	var p pemData
	if err := p.UnmarshalText([]byte(base64.StdEncoding.EncodeToString(nil))); err != nil || p != nil {
		t.Errorf("%v, %v", p, err)
	}
}

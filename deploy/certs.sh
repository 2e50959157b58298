#!/bin/sh
# certs.sh [-d DAYS]: an authority, and from it the certificates that the
# collector, the agents and those who ask know each other by, as three Secrets:
#
#   deploy/certs.sh | kubectl apply -f -
#
# The authority's key is thrown away: to renew, make all anew and apply it. The
# programs take what is new without a restart; agents keep what they can't send
# while one side has the new and the other still the old.
# Where cert-manager runs, components/cert-manager does this, and renews.
set -eu
days=825
[ "${1:-}" = -d ] && days=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
key ca.key
openssl req -x509 -new -key ca.key -subj /CN=gpuledger-ca -days "$days" -out ca.crt

issue() { # NAME EXTENSIONS
	key "$1.key"
	openssl req -new -key "$1.key" -subj "/CN=gpuledger-$1" -out "$1.csr"
	printf '%s\n' "$2" > "$1.ext"
	openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -extfile "$1.ext" -out "$1.crt" 2> "$1.log" ||
		{ cat "$1.log" >&2; exit 1; }
}
name=gpuledger-collector
issue collector "extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:$name,DNS:$name.gpuledger,DNS:$name.gpuledger.svc,DNS:localhost"
issue agent "extendedKeyUsage=clientAuth"
issue client "extendedKeyUsage=clientAuth"

text() { base64 < "$1" | tr -d '\n'; }
for who in collector agent client; do
	cat <<END
---
apiVersion: v1
kind: Secret
metadata: {name: gpuledger-$who-tls, namespace: gpuledger}
type: kubernetes.io/tls
data:
  ca.crt: $(text ca.crt)
  tls.crt: $(text $who.crt)
  tls.key: $(text $who.key)
END
done

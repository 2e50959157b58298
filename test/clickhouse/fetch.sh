#!/bin/sh
# fetch.sh DIR: unpacks Debian's ClickHouse server and ZooKeeper under DIR, with
# the libraries that they need and this machine lacks. Nothing is installed.
# Needs apt (Debian 12), dpkg and a Java runtime for ZooKeeper.
set -eu
dir=${1:?usage: fetch.sh DIR}
mkdir -p "$dir/packages"
dir=$(cd "$dir" && pwd)
wanted="clickhouse-server clickhouse-common zookeeper libzookeeper-java libslf4j-java libcommons-cli-java libcommons-io-java libdropwizard-metrics-java libsnappy-java"
libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
	clickhouse-server clickhouse-common | grep '^lib' | sort -u)
# What the machine has already is left out.
for p in $libraries; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || wanted="$wanted $p"
done
(cd "$dir/packages" && for p in $wanted; do
	ls "$p"_*.deb >/dev/null 2>&1 || apt-get download -qq "$p" || echo "fetch.sh: no package $p" >&2
done)
for f in "$dir"/packages/*.deb; do
	dpkg -x "$f" "$dir"
done
test -x "$dir/usr/sbin/clickhouse-server" || { echo "fetch.sh: no clickhouse-server came" >&2; exit 1; }
echo "ClickHouse is in $dir"

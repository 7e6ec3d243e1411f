#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Goal: the Debian packages install with dpkg in a place that has nothing of the build (the machine's files below an overlay),
# the server starts from there, and /usr/bin/python3 imports the module, puts and gets; removing them leaves nothing.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export GRANARY_BUILD=${GRANARY_BUILD:-$root/build/release}
skip() {
	echo "skipped: $1"
	exit 77
}
[ -z "${GRANARY_SANITIZE:-}" ] || skip "packages are made of release builds"
command -v dpkg-deb >/dev/null || skip "dpkg is not here"
command -v dpkg-shlibdeps >/dev/null || skip "dpkg-dev is not installed"
[ -e "$GRANARY_BUILD/python/granary/_native.abi3.so" ] || skip "the Python package is not built"
[ "$(id -u)" -eq 0 ] && unshare -m true 2>/dev/null || skip "needs root and namespaces, for a place of its own"
work=$(mktemp -d -p /var/tmp granary-deb-XXXXXX)
trap 'rm -rf "$work"' EXIT
"$root/tools/deb" "$work/out"
cat >"$work/inside" <<'END'
set -eu
dpkg -i /debs/*.deb >/dump/dpkg.log 2>&1 || { cat /dump/dpkg.log; exit 1; }
cd /
mkdir -p /tmp/d
/usr/bin/granaryd --data /tmp/d --listen unix:/tmp/s >/tmp/out 2>/tmp/err &
server=$!
trap 'kill $server' EXIT
n=0
until grep -q 'ready address=' /tmp/out; do
	n=$((n + 1))
	[ $n -lt 6000 ] && kill -0 $server || { cat /tmp/err; exit 1; }
	sleep 0.01
done
env -i PATH=/usr/bin:/bin /usr/bin/python3 -W error -c '
import granary, importlib.metadata
assert granary.__file__.startswith("/usr/lib/python3/dist-packages/"), granary.__file__
assert any(e.name == "granary" for e in importlib.metadata.entry_points(group="fsspec.specs"))
client = granary.connect("granary://%2Ftmp%2Fs/data", credentials="/tmp/d/root.credentials")
client.create_bucket("data")
client.put("a/b", b"content")
assert client.get("a/b") == b"content"
print("granary", granary.__version__, importlib.metadata.version("granary"))'
/usr/bin/granary --version
kill $server
wait $server || true
trap - EXIT
dpkg -r python3-granary granary >>/dump/dpkg.log 2>&1
[ ! -e /usr/bin/granaryd ] && [ ! -e /usr/lib/python3/dist-packages/granary ] || { echo "something is left"; exit 1; }
END
mkdir -p "$work/upper" "$work/work" "$work/merged" "$work/disk"
unshare -m bash -euc '
	mount -t tmpfs -o size=1g tmpfs "$1/disk"
	mkdir -p "$1/disk/upper" "$1/disk/work"
	mount -t overlay overlay -o "lowerdir=/,upperdir=$1/disk/upper,workdir=$1/disk/work" "$1/merged" || exit 99
	mkdir -p "$1/merged/debs" "$1/merged/dump"
	cp "$1"/out/*.deb "$1/merged/debs/"
	mount -t tmpfs -o size=512m tmpfs "$1/merged/tmp"
	mount --rbind /proc "$1/merged/proc"
	mount --rbind /dev "$1/merged/dev"
	cp "$1/inside" "$1/merged/dump/inside"
	exec chroot "$1/merged" /bin/sh /dump/inside
' bash "$work" || {
	code=$?
	[ $code -ne 99 ] || skip "no overlay filesystem here"
	exit 1
}
echo "ok"

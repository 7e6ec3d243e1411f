#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_config.sh -- settings of a real granaryd: what is wrong is refused with its place, exit code 2, and nothing is
# touched; what is right starts, reloads and stops; data directories that cannot be served are said clearly.
set -euo pipefail
src=${GRANARY_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
granaryd=${GRANARY_BUILD:-$src/build/dev}/granaryd
dir=$(mktemp -d)
server=
cleanup() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
	chmod -R u+w "$dir" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
small=(--memory 256MiB --cache-size 16MiB --pack-size 16MiB --cpus 1)

fail() { echo "FAIL: $*" >&2; tail -20 "$dir"/log* >&2 2>/dev/null || true; exit 1; }
# refused CODE TEXT ARGS...: exits with CODE, says TEXT
refused() {
	local code=$1 text=$2 rc=0
	shift 2
	timeout 30 "$granaryd" "$@" >"$dir/out" 2>&1 || rc=$?
	[ "$rc" = "$code" ] || { cat "$dir/out" >&2; fail "exit code $rc instead of $code: granaryd $*"; }
	grep -qF -- "$text" "$dir/out" || { cat "$dir/out" >&2; fail "does not say '$text': granaryd $*"; }
}
# start ARGS...: in the background, until it is ready
start() {
	: >"$dir/ready"
	"$granaryd" "$@" >"$dir/ready" 2>>"$dir/log" &
	server=$!
	for _ in $(seq 600); do
		grep -q '^ready' "$dir/ready" && return
		kill -0 "$server" 2>/dev/null || fail "granaryd ended at once: $*"
		sleep 0.05
	done
	fail "granaryd is not ready: $*"
}
stop() {
	local rc=0
	kill -"${1:-TERM}" "$server"
	wait "$server" || rc=$?
	server=
	[ "$rc" = 0 ] || fail "exit code $rc at the stop"
}

# --- the command line
refused 0 "usage: granaryd" --help
refused 0 "granaryd " --version
refused 2 "unknown option '--quikstart'; did you mean '--quickstart'?" --quikstart x
refused 2 "unknown option '--datta=x'; did you mean '--data'?" --datta=x
refused 2 "needs a value" --data
refused 2 "unexpected argument 'x'" x
refused 2 "no data directory" --cpus 1
refused 2 "cpus: '65' is out of range; 0 to 64" --data "$dir/none" --cpus 65
refused 2 "'nowhere' is not an address" --data "$dir/none" --listen nowhere
refused 2 "--quickstart names the data directory itself" --quickstart "$dir/none" --data "$dir/none"

# --- the file: place, nearest name, exit code 2
yaml=$dir/g.yaml
config_refused() { printf "$2" >"$yaml"; refused 2 "$1" --config "$yaml" --data "$dir/none"; refused 2 "$1" --config "$yaml" --check-config; }
config_refused "g.yaml:2:1: unknown key 'cach_size'; did you mean 'cache_size'?" 'memory: 1GiB\ncach_size: 1GiB\n'
config_refused "g.yaml:1:12: pack_size: '1MiB' is out of range; 16MiB to 2GiB" 'pack_size: 1MiB\n'
config_refused "g.yaml:1:7: cpus: 'two' is not a number" 'cpus: two\n'
config_refused "g.yaml:1:9: listen: a list is needed" 'listen: 127.0.0.1:1\n'
config_refused "g.yaml:2:1: 'cpus' is given twice" 'cpus: 1\ncpus: 2\n'
config_refused "g.yaml:1:7: " 'data: [\n'
refused 2 "cannot read '$dir/missing.yaml'" --config "$dir/missing.yaml" --data "$dir/none"
[ ! -e "$dir/none" ] || fail "a refused setting made the data directory"
refused 2 "cach_size" --config <(printf 'cach_size: 1\n') --quickstart "$dir/none"
[ ! -e "$dir/none" ] || fail "a refused setting made the quickstart directory"

# --- printing
"$granaryd" --print-default-config >"$yaml"
refused 0 "valid" --config "$yaml" --check-config
sed 's/^#\([a-z_]*:\)/\1/; s/^#  /  /' "$yaml" >"$dir/all.yaml"
refused 0 "valid" --config "$dir/all.yaml" --check-config
printf 'memory: 512MiB\n' >"$yaml"
"$granaryd" --config "$yaml" --cpus 3 --print-effective-config >"$dir/out"
grep -q "^memory: 512MiB  # $yaml:1\$" "$dir/out" || fail "the source of memory"
grep -q '^cpus: 3  # command line$' "$dir/out" || fail "the source of cpus"
grep -q '^pack_size: 256MiB  # default$' "$dir/out" || fail "the source of pack_size"
refused 0 "valid" --config "$dir/out" --check-config

# --- data directories that cannot be served
refused 1 "does not exist" --data "$dir/none" "${small[@]}"
[ ! -e "$dir/none" ] || fail "a missing data directory was made"
: >"$dir/file"
refused 1 "$dir/file" --data "$dir/file" "${small[@]}"
mkdir "$dir/old"
printf 'format=99\nstore=00000000000000000000000000000001\nincarnation=1\ncreated=1\n' >"$dir/old/granary.super"
sum=$(cat "$dir/old/granary.super" | cksum)
refused 1 "$dir/old" --data "$dir/old" --listen 127.0.0.1:0 "${small[@]}"
[ "$sum" = "$(cat "$dir/old/granary.super" | cksum)" ] || fail "a superblock of another version was touched"
grep -qi 'version\|format' "$dir/out" || fail "does not speak of the version"
[ ! -e "$dir/old/meta" ] || fail "a directory of another version was touched"

# --- a key is needed off loopback
mkdir "$dir/open"
refused 1 "without any access key" --data "$dir/open" --listen 0.0.0.0:0 "${small[@]}"

# --- start, lock, reload, stop
mkdir "$dir/data"
printf 'data: %s\nlisten:\n  - 127.0.0.1:0\n  - unix:%s/sock\nlog_level: info\nmemory: 256MiB\ncache_size: 16MiB\npack_size: 16MiB\ncpus: 1\n' \
	"$dir/data" "$dir" >"$yaml"
start --config "$yaml"
grep -q "^ready address=tcp:127.0.0.1:[0-9]* address=unix:$dir/sock" "$dir/ready" || fail "the ready line: $(cat "$dir/ready")"
[ "$(stat -c %a "$dir/data/root.credentials")" = 600 ] || fail "mode of root.credentials"
[ "$(stat -c %a "$dir/data/master.key")" = 600 ] || fail "mode of master.key"
grep -Eq '^secret=[0-9a-f]{64}$' "$dir/data/root.credentials" || fail "the secret's line"
secret=$(sed -n 's/^secret=//p' "$dir/data/root.credentials")
! grep -q "$secret" "$dir/log" || fail "a secret in the log"
! tr '\0' '\n' <"/proc/$server/cmdline" | grep -q "$secret" || fail "a secret in argv"
! grep -rqa "$secret" "$dir/data/meta" || fail "a secret in plain text in the metadata"
refused 1 "$dir/data" --data "$dir/data" --listen 127.0.0.1:0 "${small[@]}" # locked
kill -0 "$server" || fail "the second server disturbed the first"
port=$(sed -n 's/^ready address=tcp:127.0.0.1:\([0-9]*\).*/\1/p' "$dir/ready")
mkdir "$dir/data2"
refused 1 "cannot listen on 'tcp:127.0.0.1:$port': another process does" --data "$dir/data2" --listen "127.0.0.1:$port" "${small[@]}"

reload_says() {
	local before
	before=$(wc -l <"$dir/log")
	kill -HUP "$server"
	for _ in $(seq 100); do
		tail -n "+$((before + 1))" "$dir/log" | grep -qF -- "$1" && return
		sleep 0.05
	done
	fail "the reload does not say '$1'"
}
sed -i 's/^log_level: .*/log_level: warn/; s/^cpus: .*/cpus: 2/' "$yaml"
sed -i 's/^log_level: .*/log_level: debug/' "$yaml"
reload_says 'applied=1 needs_restart="cpus"'
printf 'cach_size: 1\n' >>"$yaml"
reload_says "keeping the old settings: $yaml:10:1: unknown key 'cach_size'"
sed -i '/cach_size: 1/d' "$yaml"
stop TERM

start --config "$yaml"
[ "$(sed -n 's/^secret=//p' "$dir/data/root.credentials")" = "$secret" ] || fail "a second start made another key"
newport=$(sed -n 's/^ready address=tcp:127.0.0.1:\([0-9]*\).*/\1/p' "$dir/ready")
grep -q "^url=granary://127.0.0.1:$newport\$" "$dir/data/root.credentials" || fail "the url was not brought up to date"
stop INT
start --data "$dir/data" --listen 0.0.0.0:0 "${small[@]}" # there is a key now
stop TERM

# --- quickstart
began=$(date +%s%N)
refused 1 "cannot make '$dir/none/deeper'" --quickstart "$dir/none/deeper" "${small[@]}"
start --quickstart "$dir/quick" "${small[@]}"
took=$((($(date +%s%N) - began) / 1000000))
for word in "endpoint     granary://127.0.0.1:" "$dir/quick/root.credentials" "granary_get(" "granary status" "demo"; do
	grep -qF -- "$word" "$dir/ready" || fail "quickstart does not print '$word'"
done
echo "quickstart: ready after $took ms"
stop TERM
start --quickstart "$dir/quick" "${small[@]}" # again
stop TERM

# --- a drain finishes in time though a client idles
start --data "$dir/data" --listen 127.0.0.1:0 "${small[@]}"
port=$(sed -n 's/^ready address=tcp:127.0.0.1:\([0-9]*\).*/\1/p' "$dir/ready")
exec 9<>"/dev/tcp/127.0.0.1/$port"
began=$(date +%s)
stop TERM
exec 9>&-
[ $(($(date +%s) - began)) -le 8 ] || fail "the drain took $(($(date +%s) - began)) s"
echo "test_config: passed"

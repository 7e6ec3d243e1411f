# SPDX-License-Identifier: Apache-2.0
# cli_lib.sh -- for the tests of the command: a real granaryd of their own, and checks of exit codes and texts. Sourced.
set -euo pipefail
src=${GRANARY_SRC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}
build=${GRANARY_BUILD:-$src/build/dev}
granary=$build/granary
granaryd=$build/granaryd
for program in "$granary" "$granaryd"; do
	[ -x "$program" ] || { echo "skipped: $program is not built"; exit 77; }
done
dir=$(mktemp -d)
server=
url=
export LC_ALL=C.UTF-8
unset GRANARY_URL GRANARY_CREDENTIALS
small=(--memory 256MiB --cache-size 16MiB --pack-size 16MiB)

cleanup() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
	chmod -R u+rwX "$dir" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT

fail() {
	echo "FAIL: $*" >&2
	[ -z "$server" ] || kill -0 "$server" 2>/dev/null || echo "granaryd is gone" >&2
	tail -n 15 "$dir/log" >&2 2>/dev/null || true
	exit 1
}

# Starts granaryd on $dir/store and sets $url and GRANARY_CREDENTIALS.
server_start() {
	mkdir -p "$dir/store"
	: >"$dir/ready"
	"$granaryd" --quickstart "$dir/store" "${small[@]}" >"$dir/ready" 2>>"$dir/log" &
	server=$!
	for _ in $(seq 1200); do
		if grep -q '^ready' "$dir/ready"; then
			export GRANARY_CREDENTIALS="$dir/store/root.credentials"
			# The port of this very start: another server may hold the usual one.
			local port
			port=$(sed -n 's/^ready.*address=tcp:127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/ready" | head -n 1)
			[ -n "$port" ] || fail "granaryd says no address"
			url=granary://127.0.0.1:$port
			return
		fi
		kill -0 "$server" 2>/dev/null || fail "granaryd ended at once"
		sleep 0.05
	done
	fail "granaryd is not ready"
}

server_stop() {
	local rc=0
	kill -TERM "$server"
	wait "$server" || rc=$?
	server=
	[ "$rc" = 0 ] || fail "granaryd ended with exit code $rc"
}

# run CODE ARGS...: granary ARGS exits with CODE; its output is in $dir/out and $dir/err.
run() {
	local code=$1 rc=0
	shift
	timeout 300 "$granary" "$@" >"$dir/out" 2>"$dir/err" </dev/null || rc=$?
	[ "$rc" = "$code" ] && return
	cat "$dir/out" "$dir/err" >&2
	fail "exit code $rc instead of $code: granary $*"
}
# says TEXT: the last run said it, anywhere.
says() {
	grep -qF -- "$1" "$dir/out" "$dir/err" || { cat "$dir/out" "$dir/err" >&2; fail "does not say '$1'"; }
}
says_not() {
	! grep -qF -- "$1" "$dir/out" "$dir/err" || { cat "$dir/out" "$dir/err" >&2; fail "says '$1'"; }
}
# Every line of the last run's output is one JSON object.
is_json() {
	python3 -m json.tool --json-lines "$dir/out" >/dev/null || { cat "$dir/out" >&2; fail "no JSON: $*"; }
	[ -s "$dir/out" ] || fail "no JSON at all: $*"
}
# field NAME: of the last line of JSON.
field() { tail -n 1 "$dir/out" | python3 -c 'import json, sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$1"; }
# Names, sizes, modes, times and bytes of two directories are the same.
same_trees() {
	diff -r "$1" "$2" >"$dir/diff" || { head "$dir/diff" >&2; fail "'$1' and '$2' differ"; }
	diff <(cd "$1" && find . -type f -printf '%p %m %T@\n' | sort) \
		<(cd "$2" && find . -type f -printf '%p %m %T@\n' | sort) >"$dir/diff" ||
		{ head "$dir/diff" >&2; fail "modes or times of '$1' and '$2' differ"; }
}
count() { "$granary" ls -r "$1" | grep -vc '/$' || true; }

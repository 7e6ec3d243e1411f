#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_quickstart.sh -- tools/quickstart on a small directory, twice: the second run reuses what is there.
. "$(dirname "$0")/cli_lib.sh"
mkdir -p "$dir/my pictures/sub"
for i in $(seq 300); do head -c $((i * 37)) /dev/urandom >"$dir/my pictures/sub/$i.png"; done

# The packages are there when this tree is built; nothing is to be installed by a test.
quickstart() {
	(cd "$dir" && GRANARY_BUILD=$build timeout 300 bash "$src/tools/quickstart" --data "my pictures" --store store) \
		>"$dir/out" 2>"$dir/err" </dev/null || { cat "$dir/out" "$dir/err" >&2; fail "quickstart, run $1"; }
}
quickstart 1
says "every byte equal"; says "300 samples"; says "the server stopped cleanly"; says "granary check"
quickstart 2
says "every byte equal"; says "300 were there already"; says "the server stopped cleanly"
ms=$(sed -n 's/^ready after \([0-9]*\) ms.*/\1/p' "$dir/out")
limit=3000
[ -z "${GRANARY_SANITIZE:-}" ] || limit=20000
[ "$ms" -le "$limit" ] || fail "ready only after $ms ms"
[ "$(stat -c %a "$dir/store/training.credentials")" = 600 ] || fail "mode of the key file"
echo "test_quickstart: passed"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Goal: write, truncate, punch and map change an object as dd, truncate and fallocate change a file; what was changed is
# read, exported in a snapshot and kept over compaction and a restart; a large sparse object costs what it holds.
source "$(dirname "${BASH_SOURCE[0]}")/cli_lib.sh"
server_start
g() { "$granary" "$@"; }
is() { [ "$1" = "$2" ] || fail "got '$1', expected '$2'"; }
same() { g cat "$url/data/f" | cmp - "$dir/f" || fail "the object is not what the file is: $1"; }
write() { # OFFSET LENGTH
	head -c "$2" /dev/urandom >"$dir/part"
	dd if="$dir/part" of="$dir/f" bs=64K oflag=seek_bytes seek="$1" conv=notrunc status=none
	g write --offset "$1" "$url/data/f" "$dir/part"
}
g bucket create "$url/data"
head -c 9000000 /dev/urandom >"$dir/f"
g cp "$dir/f" "$url/data/f"
write 0 10
write 4194300 100
write 8999990 70000
write 12000000 1
same writes
for ((i = 0; i < 12; i++)); do write $((RANDOM * 370)) $((1 + RANDOM * 3)); done
same 'random writes'
g punch "$url/data/f" 1MiB 100001
fallocate -p -o 1048576 -l 100001 "$dir/f"
same punch
g map "$url/data/f" | grep -q "^1148577 " || fail "no stretch begins behind the hole"
g truncate "$url/data/f" 5000000
truncate -s 5000000 "$dir/f"
same 'shorter'
g truncate "$url/data/f" 6000000
truncate -s 6000000 "$dir/f"
same 'longer'

g snapshot create "$url/data@one" >/dev/null
g snapshot verify "$url/data@one" >/dev/null || fail "the snapshot is not what it says"
write 2500000 4096
server_stop
server_start
same 'restarted'
g check "$url" >/dev/null || fail "check found something"

printf x | g cp - "$url/data/big"
g truncate "$url/data/big" 50GiB
printf 'in the middle' | g write --offset 30000000000 "$url/data/big"
printf 'at the end' | g write --offset 53687091190 "$url/data/big"
is "$(g map "$url/data/big")" "0 1
30000000000 13
53687091190 10"

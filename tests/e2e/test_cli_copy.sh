#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_cli_copy.sh -- whole trees there and back: odd names, many files, large and empty ones, modes and times; going on
# after a stop; nothing is ever written outside the target, whatever the keys say.
. "$(dirname "$0")/cli_lib.sh"
server_start
run 0 bucket create "$url/trees"

tree=$dir/tree
mkdir -p "$tree/with space/äöü 漢字" "$tree/deep/a/b/c/d/e" "$tree/empty dir/inner" "$tree/many"
printf 'x' >"$tree/with space/a file with blanks"
printf 'é' >"$tree/with space/äöü 漢字/naïve.txt"
printf '%%' >"$tree/percent%20@#?&=.txt"
printf 'q' >"$tree/quote\"back\\slash'"
printf 'n' >"$tree/"$'new\nline'
printf 'dot' >"$tree/.hidden"
: >"$tree/empty"
head -c 10485760 /dev/urandom >"$tree/ten MiB"
head -c 4194304 /dev/urandom >"$tree/exactly4MiB"
head -c 4194305 /dev/urandom >"$tree/one byte more"
printf 'deep' >"$tree/deep/a/b/c/d/e/f"
python3 - "$tree/many" <<'PY'
import os, sys
for i in range(1500):
    with open(f"{sys.argv[1]}/{i:05d}.bin", "wb") as f:
        f.write(os.urandom(i * 7 % 5000))
PY
chmod 755 "$tree/many/00001.bin"
chmod 400 "$tree/many/00002.bin"
touch -d '1999-12-31 23:59:59.987654321' "$tree/many/00003.bin"

# --- up and down
run 0 cp -r --dry-run "$tree" "$url/trees/t"; says "would copy 1,511 files"
run 4 ls "$url/trees/t"
run 0 cp -r "$tree" "$url/trees/t"; says "1,511 files"
[ "$(count "$url/trees/t")" -ge 1511 ] || fail "files are missing"
run 0 cp -r --dry-run "$url/trees/t" "$dir/down"; says "would copy 1,511 files"
[ ! -e "$dir/down" ] || fail "a dry run wrote"
run 0 cp -r "$url/trees/t" "$dir/down"
same_trees "$tree" "$dir/down"
[ -d "$dir/down/empty dir/inner" ] || fail "the empty directory is lost"

# --- again: nothing to do, either way; what changed is copied
run 0 cp -r --json "$tree" "$url/trees/t"; is_json cp -r; [ "$(field files)" = 0 ] && [ "$(field same)" = 1511 ] || fail "up again"
run 0 cp -r --json "$url/trees/t" "$dir/down"; is_json cp -r; [ "$(field files)" = 0 ] || fail "down again"
printf 'changed' >"$tree/many/00007.bin"
rm "$dir/down/many/00008.bin"
run 0 cp -r --json "$tree" "$url/trees/t"; [ "$(field files)" = 1 ] && [ "$(field replaced)" = 1 ] || fail "one changed file"
run 0 cp -r --json "$url/trees/t" "$dir/down"; [ "$(field files)" = 2 ] || fail "one changed, one gone"
same_trees "$tree" "$dir/down"

# --- a slash at the end takes the source's name; across; one object
run 0 cp -r "$tree/deep" "$url/trees/slash/"
run 0 ls -r "$url/trees/slash"; says "deep/a/b/c/d/e/f"
mkdir "$dir/into"
run 0 cp -r "$url/trees/t/deep" "$dir/into/"
[ -f "$dir/into/deep/a/b/c/d/e/f" ] || fail "down with a slash"
run 0 cp -r "$url/trees/t" "$url/trees/u"; says "1,511 files"
run 0 cp -r "$url/trees/u" "$dir/across"
same_trees "$tree" "$dir/across"
run 0 cp -r --json "$url/trees/t" "$url/trees/u"; [ "$(field files)" = 0 ] || fail "across again"
run 0 cp "$url/trees/t/ten MiB" "$url/trees/ten"
"$granary" cat "$url/trees/ten" | cmp - "$tree/ten MiB" || fail "across: one large object"
"$granary" cp "$tree/ten MiB" - 2>/dev/null && fail "two local sides"
cat "$tree/ten MiB" | "$granary" cp - "$url/trees/piped" || fail "a large pipe"
"$granary" cp "$url/trees/piped" - | cmp - "$tree/ten MiB" || fail "a large pipe back"
run 2 cp -r - "$url/trees/x"
run 4 cp -r "$url/trees/none" "$dir/none"
[ ! -e "$dir/none" ] || fail "a directory of nothing"

# --- hostile keys stay inside
for key in 'h/../outside1' 'h//outside2' 'h/a/../../../outside3' 'h/./dot' 'h/a/..' 'h/ok/fine' "h//$dir/outside4"; do
	printf 'evil' | "$granary" cp - "$url/trees/$key" || fail "cannot write key $key"
done
mkdir -p "$dir/jail/target" "$dir/elsewhere"
before=$(cd "$dir" && find . -path ./store -prune -o -name 'outside*' -print | sort)
run 3 cp -r "$url/trees/h" "$dir/jail/target"; says "refusing to write"; says "'..'"
[ "$(cat "$dir/jail/target/ok/fine")" = evil ] || fail "the good one is missing"
[ "$(find "$dir/jail" -type f | wc -l)" = 1 ] || { find "$dir/jail" >&2; fail "more than the good one was written"; }
[ "$(cd "$dir" && find . -path ./store -prune -o -name 'outside*' -print | sort)" = "$before" ] || fail "written outside the target"
run 3 cp -r --json "$url/trees/h" "$dir/jail/target"; [ "$(tail -n 1 "$dir/out" | python3 -c 'import json,sys; print(json.load(sys.stdin)["refused"])')" = 6 ] || fail "refused are not counted"
run 2 cp "$url/trees/h/a/.." "$dir/jail/target/"

# --- a link in the way leads nowhere
printf 'inner' | "$granary" cp - "$url/trees/l/sub/file"
printf 'leaf' | "$granary" cp - "$url/trees/l/leaf"
mkdir "$dir/linked"
ln -s "$dir/elsewhere" "$dir/linked/sub"
ln -s "$dir/elsewhere/victim" "$dir/linked/leaf"
printf 'untouched' >"$dir/elsewhere/victim"
run 3 cp -r "$url/trees/l" "$dir/linked"
[ "$(ls "$dir/elsewhere")" = victim ] && [ "$(cat "$dir/elsewhere/victim")" = untouched ] || fail "written through a link"
[ ! -L "$dir/linked/leaf" ] && [ "$(cat "$dir/linked/leaf")" = leaf ] || fail "the link itself is to be replaced"

# --- what cannot be copied is said, the rest is copied
if [ "$(id -u)" != 0 ]; then
	mkdir "$dir/part"
	printf 1 >"$dir/part/readable"
	printf 2 >"$dir/part/secret"
	chmod 000 "$dir/part/secret"
	run 3 cp -r "$dir/part" "$url/trees/part"; says "secret"
	run 0 stat "$url/trees/part/readable"
fi
run 4 cp -r "$dir/part-none" "$url/trees/part"
mkdir "$dir/odd"
printf 1 >"$dir/odd/good"
printf 2 >"$dir/odd/"$'bad\xff'
run 3 cp -r "$dir/odd" "$url/trees/odd"; says "not UTF-8"
run 0 stat "$url/trees/odd/good"

# --- a whole tree goes again
run 0 rm -r --yes "$url/trees/t"; says "removed"
run 4 ls "$url/trees/t"
run 0 rm -r --yes "$url/trees"
run 0 ls -r "$url/trees"; [ ! -s "$dir/out" ] || fail "rm -r left something"
run 0 check "$url"; says "0 problems"
server_stop
echo "test_cli_copy: passed"

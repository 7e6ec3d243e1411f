#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_import.sh -- import: links and special files, layouts and the order in the packs, going on after kill -9 of the
# command and of the server, and every byte compared by bench read.
. "$(dirname "$0")/cli_lib.sh"
server_start
run 0 bucket create "$url/data"

# --- what is taken and what is left out
mkdir -p "$dir/src/class a/deep" "$dir/src/none"
for i in 01 02 03; do printf "$i" >"$dir/src/class a/$i.jpg"; printf "j$i" >"$dir/src/class a/$i.json"; done
printf 'f' >"$dir/src/class a/deep/f"
: >"$dir/src/zero"
ln -s "class a/01.jpg" "$dir/src/link-to-file"
ln -s "class a" "$dir/src/link-to-directory"
ln -s nowhere "$dir/src/broken"
ln -s link-loop "$dir/src/link-loop"
mkfifo "$dir/src/pipe"
run 0 import --dry-run "$dir/src" "$url/data/set"; says "would import 9 files"
run 4 ls "$url/data/set"
run 0 import --json "$dir/src" "$url/data/set"; is_json import
for pair in files=9 links_followed=1 left_out_links_to_directories=1 left_out_broken_links=2 left_out_special=1 failed=0; do
	[ "$(field "${pair%=*}")" = "${pair#*=}" ] || { cat "$dir/out" >&2; fail "import: $pair"; }
done
run 0 cat "$url/data/set/link-to-file"; [ "$(cat "$dir/out")" = 01 ] || fail "the link's file"
run 0 ls "$url/data/set/"; says "none/"
rm "$dir/src/link-to-directory" "$dir/src/broken" "$dir/src/link-loop" "$dir/src/pipe"
run 0 bench read "$url/data/set" --batch 2 --against "$dir/src"; says "every byte equal"
run 0 bench read "$url/data/set" --batch 2 --by id --against "$dir/src"; says "every byte equal"

run 0 cp -r "$url/data/set" "$dir/back"
cp -rLp "$dir/src" "$dir/flat"
same_trees "$dir/flat" "$dir/back"

# --- the comparison finds what differs and what is missing
printf 'other' >"$dir/src/zero"
printf 'new' >"$dir/src/class a/04.jpg"
run 1 bench read "$url/data/set" --against "$dir/src"; says "zero' differs"; says "04.jpg' is missing"; says "NOT equal"
run 0 import "$dir/src" "$url/data/set"; says "2 files"; says "1 of them replaced"
run 0 bench read "$url/data/set" --epochs 2 --inflight 8 --json --against "$dir/src"; is_json bench read
run 0 bench read "$url/data/set" --shuffle no
run 4 bench read "$url/data/nothing"
run 4 bench read "$url/data/set" --against "$dir/nowhere"

# --- several directories go side by side
mkdir -p "$dir/two/train" "$dir/two/val"
printf 1 >"$dir/two/train/x"
printf 2 >"$dir/two/val/x"
run 0 import "$dir/two/train" "$dir/two/val/" "$url/data/both"
run 0 cat "$url/data/both/train/x" "$url/data/both/val/x"; [ "$(cat "$dir/out")" = 12 ] || fail "two directories"
run 2 import "$dir/two/train" "$dir/src/../two/train" "$url/data/both"; says "same name"
run 4 import "$dir/nowhere" "$url/data/both"
run 4 import "$dir/src" "$url/nobucket/x"; says "no such bucket"
run 2 import "$dir/src" "$url/data/x" --layout sideways; says "shuffled"

# --- order: neighbours stay neighbours, and shuffled is another order of the same groups
mkdir -p "$dir/pairs"
python3 - "$dir/pairs" <<'PY'
import sys
for i in range(3000):
    for ext in ("cls", "jpg", "seg.png"):
        with open(f"{sys.argv[1]}/s{i:05d}.{ext}", "wb") as f:
            f.write(f"{i} {ext}".encode() * 40)
PY
run 0 import "$dir/pairs" "$url/data/pairs"
run 0 import --layout shuffled:9 "$dir/pairs" "$url/data/shuffled"
for name in pairs shuffled; do
	"$granary" ls -r --json "$url/data/$name" >"$dir/list"
	python3 - "$name" "$dir/list" <<'PY' || fail "order of $name"
import json, sys
name, path = sys.argv[1:]
rows = [json.loads(line) for line in open(path)]
rows = [r for r in rows if r["type"] == "file"]
assert len(rows) == 9000, len(rows)
# Object ids are given in the order of arrival, which is the order in the packs.
rows.sort(key=lambda r: r["object_id"])
stems = [r["key"].split("/")[-1].split(".")[0] for r in rows]
groups = [stems[i] for i in range(0, 9000, 3)]
assert all(stems[i] == stems[i + 1] == stems[i + 2] for i in range(0, 9000, 3)), "a group is torn"
assert len(set(groups)) == 3000
# Batches that are under way together may change places in the server; inside a batch the order holds.
descents = sum(a > b for a, b in zip(groups, groups[1:]))
if name == "pairs":
    assert descents <= 30, f"not by name: {descents} descents"
else:
    assert descents >= 1000, "not shuffled"
PY
done

# --- stopped in the middle: the same command goes on
python3 - "$dir/big" <<'PY'
import os, sys
for d in range(40):
    os.makedirs(f"{sys.argv[1]}/d{d:02d}")
    for i in range(250):
        with open(f"{sys.argv[1]}/d{d:02d}/{i:04d}", "wb") as f:
            f.write(os.urandom(3000 + i))
PY
for pause in 0.02 0.05 0.1; do
	"$granary" import --jobs 1 --quiet "$dir/big" "$url/data/big" &
	victim=$!
	sleep "$pause"
	kill -9 "$victim" 2>/dev/null || true
	wait "$victim" 2>/dev/null || true
done
run 0 import --json "$dir/big" "$url/data/big"; is_json import
[ $(($(field files) + $(field same))) = 10000 ] || fail "not all there after the stops"
run 0 import --json "$dir/big" "$url/data/big"; [ "$(field same)" = 10000 ] || fail "the second run copied again"
run 0 bench read "$url/data/big" --against "$dir/big"; says "every byte equal"

# --- the server goes away after the import: all of it is there
kill -9 "$server"
wait "$server" 2>/dev/null || true
server=
server_start
run 0 bench read "$url/data/big" --batch 256 --against "$dir/big"; says "every byte equal"
run 0 check "$url"; says "0 problems"
server_stop
echo "test_import: passed"

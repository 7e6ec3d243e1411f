#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_archives.sh -- import of tar and zip archives, good and bad, and export to them; sync and du; nothing leaves its target.
. "$(dirname "$0")/cli_lib.sh"
server_start
run 0 bucket create "$url/data"

# --- a tree with everything that a tar may say of it
mkdir -p "$dir/src/a/deep" "$dir/src/none" "$dir/src/big"
for i in $(seq 1 300); do echo "file $i" >"$dir/src/a/$i.txt"; done
printf 'ümlaut' >"$dir/src/a/deep/ü b"
: >"$dir/src/zero"
head -c 9000000 /dev/urandom >"$dir/src/big/nine"
touch -d '2001-02-03 04:05:06.123456789' "$dir/src/a/1.txt"
chmod 0640 "$dir/src/a/2.txt"

tar -C "$dir/src" --format=pax -cf "$dir/plain.tar" .
run 0 import --json "$dir/plain.tar" "$url/data/plain"; is_json import
[ "$(field files)" = 303 ] && [ "$(field failed)" = 0 ] || fail "tar: $(cat "$dir/out")"
run 0 export "$url/data/plain" "$dir/back"
same_trees "$dir/src" "$dir/back"
"$granary" import --json - "$url/data/plain" <"$dir/plain.tar" >"$dir/out" || fail "import from standard input"
[ "$(field same)" = 303 ] && [ "$(field files)" = 0 ] || fail "second import wrote: $(cat "$dir/out")"

# --- formats and compressions
for how in gz:-z xz:-J zst:--zstd bz2:-j; do
	tar -C "$dir/src" --format=gnu "${how#*:}" -cf "$dir/x.tar.${how%%:*}" a
	run 0 import "$dir/x.tar.${how%%:*}" "$url/data/${how%%:*}"
	run 0 cat "$url/data/${how%%:*}/a/deep/ü b"; [ "$(cat "$dir/out")" = ümlaut ] || fail "$how"
done
python3 - "$dir" <<'PY'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/z.zip", "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("d/one.txt", "eins")
    z.writestr("d/two.bin", bytes(5_000_000))
PY
run 0 import "$dir/z.zip" "$url/data/zip"
run 0 cat "$url/data/zip/d/one.txt"; [ "$(cat "$dir/out")" = eins ] || fail zip
run 0 stat --json "$url/data/zip/d/two.bin"; [ "$(field size)" = 5000000 ] || fail "zip size"

# --- bad archives: what is good of them is there, nothing else, nothing outside
python3 - "$dir" <<'PY'
import io, sys, tarfile
d = sys.argv[1]
def member(t, name, data=b"x", **kw):
    m = tarfile.TarInfo(name)
    m.size = len(data)
    for k, v in kw.items():
        setattr(m, k, v)
    t.addfile(m, io.BytesIO(data) if m.isreg() else None)
with tarfile.open(d + "/bad.tar", "w", format=tarfile.PAX_FORMAT) as t:
    member(t, "good", b"old")
    member(t, "../up")
    member(t, "a/../../up")
    member(t, "/etc/absolute")
    member(t, "n" * 1025)
    member(t, "good", b"new")
    member(t, "./same//name", b"s")
    member(t, "link", b"", type=tarfile.SYMTYPE, linkname="../../etc/passwd")
    member(t, "here", b"", type=tarfile.SYMTYPE, linkname=".")
    member(t, "over", b"", type=tarfile.SYMTYPE, linkname="here/../../etc/passwd")
    member(t, "byname", b"", type=tarfile.SYMTYPE, linkname="here/../outside")
    member(t, "hard", b"", type=tarfile.LNKTYPE, linkname="good")
    member(t, "hardout", b"", type=tarfile.LNKTYPE, linkname="../outside")
    member(t, "hardmissing", b"", type=tarfile.LNKTYPE, linkname="nowhere")
    member(t, "pipe", b"", type=tarfile.FIFOTYPE)
    for i in range(3000):
        member(t, "again", b"%d" % i)
whole = open(d + "/bad.tar", "rb").read()
open(d + "/cut.tar", "wb").write(open(d + "/plain.tar", "rb").read()[:5_000_000])
m = tarfile.TarInfo("huge"); m.size = 100 << 30
open(d + "/huge.tar", "wb").write(m.tobuf(tarfile.GNU_FORMAT) + b"z" * 100_000)
open(d + "/noise.tar", "wb").write(bytes(range(256)) * 100)
PY
run 3 import --json "$dir/bad.tar" "$url/data/bad"
[ "$(field bad_names)" = 8 ] && [ "$(field left_out_special)" = 1 ] &&
	[ "$(field failed)" = 1 ] || fail "bad.tar: $(cat "$dir/out")"
run 0 ls -r "$url/data/bad"
[ "$(sort "$dir/out" | tr '\n' ' ')" = "again good hard here same/name " ] || fail "bad.tar left: $(cat "$dir/out")"
run 0 cat "$url/data/bad/good" "$url/data/bad/hard"; [ "$(cat "$dir/out")" = newnew ] || fail "the last of duplicates wins"
run 0 cat "$url/data/bad/again"; [ "$(cat "$dir/out")" = 2999 ] || fail "the last of many duplicates wins"
run 1 import "$dir/cut.tar" "$url/data/cut"; says "cannot read"
run 4 ls "$url/data/cut/big/nine"
run 1 import "$dir/huge.tar" "$url/data/huge"; says "cannot read"
run 4 stat "$url/data/huge/huge"
run 1 import "$dir/noise.tar" "$url/data/noise"
gzip -1 -c "$dir/plain.tar" >"$dir/whole.tar.gz"; head -c 3000000 "$dir/whole.tar.gz" >"$dir/cut.tar.gz"
run 1 import "$dir/cut.tar.gz" "$url/data/cutgz"; says "cannot read"
run 4 import "$dir/nowhere.tar" "$url/data/none"
run 2 import "$dir/src" "$dir/plain.tar" "$url/data/both"; says "one after the other"

# --- stopped in the middle and run again: what is there already is not written again, and all of it is there then
mkdir -p "$dir/many"
python3 - "$dir" <<'PY'
import os, sys
for i in range(3000):
    d = f"{sys.argv[1]}/many/{i % 30}"
    os.makedirs(d, exist_ok=True)
    open(f"{d}/{i}", "wb").write(os.urandom(4000))
PY
tar -C "$dir/many" --format=pax -cf "$dir/many.tar" .
mkfifo "$dir/pipe"
"$granary" import -q - "$url/data/many" <"$dir/pipe" >/dev/null 2>&1 &
importer=$!
{ head -c 9000000 "$dir/many.tar"; sleep 2; } >"$dir/pipe" 2>/dev/null &
feeder=$!
for _ in $(seq 100); do
	"$granary" ls -r "$url/data/many" >"$dir/partly" 2>/dev/null && [ "$(wc -l <"$dir/partly")" -gt 500 ] && break
	sleep 0.1
done
kill -9 "$importer"; wait "$importer" 2>/dev/null || true
wait "$feeder" 2>/dev/null || true
[ "$(wc -l <"$dir/partly")" -gt 500 ] || fail "the import that is to be stopped wrote $(wc -l <"$dir/partly") files"
run 0 import --json "$dir/many.tar" "$url/data/many"
[ "$(field same)" -gt 500 ] && [ "$(field failed)" = 0 ] || fail "resumed import: $(cat "$dir/out")"
run 0 export "$url/data/many" "$dir/many2"; same_trees "$dir/many" "$dir/many2"

# --- links: hard ones are the same file, symbolic ones stay links; twice is once
mkdir -p "$dir/links/sub"
printf one >"$dir/links/one"; ln "$dir/links/one" "$dir/links/sub/two"; ln -s ../one "$dir/links/sub/three"
ln -s sub "$dir/links/four"; ln -s nowhere "$dir/links/five"
tar -C "$dir/links" -cf "$dir/links.tar" .
run 0 import --json "$dir/links.tar" "$url/data/links"; [ "$(field failed)" = 0 ] || fail "links"
run 0 import "$dir/links.tar" "$url/data/links"
run 0 stat --json "$url/data/links/one"; one=$(field object_id)
run 0 stat --json "$url/data/links/sub/two"; [ "$(field object_id)" = "$one" ] || fail "a hard link is another file"
same_links() {
	[ "$(readlink "$1/sub/three")" = ../one ] && [ "$(readlink "$1/four")" = sub ] && [ "$(readlink "$1/five")" = nowhere ] &&
		[ "$(cat "$1/sub/two")" = one ] || fail "links of $1"
}
run 0 export "$url/data/links" "$dir/links2.tar"; mkdir "$dir/l2"; tar -xf "$dir/links2.tar" -C "$dir/l2"; same_links "$dir/l2"
mkdir -p "$dir/l3/sub"; printf kept >"$dir/target"; ln -s "$dir/target" "$dir/l3/five"
run 0 sync "$url/data/links" "$dir/l3"; same_links "$dir/l3"; [ "$(cat "$dir/target")" = kept ] || fail "followed a link"
run 0 sync "$url/data/links" "$url/data/links3"; run 0 export "$url/data/links3" "$dir/l4"; same_links "$dir/l4"

# --- sparse files come whole
truncate -s 6M "$dir/src/sparse"; printf end | dd of="$dir/src/sparse" bs=1 seek=3000000 conv=notrunc status=none
tar -C "$dir/src" -S -cf "$dir/sparse.tar" sparse
run 0 import "$dir/sparse.tar" "$url/data/sparse"
run 0 cat "$url/data/sparse/sparse"; cmp "$dir/out" "$dir/src/sparse" || fail sparse
rm "$dir/src/sparse"

# --- export
run 0 export "$url/data/plain" - ; tar -xf "$dir/out" -C "$(mkdir -p "$dir/t1"; echo "$dir/t1")"
same_trees "$dir/src" "$dir/t1"
run 0 export "$url/data/plain" "$dir/e.tar.zst"; mkdir "$dir/t2"; tar --zstd -xf "$dir/e.tar.zst" -C "$dir/t2"
same_trees "$dir/src" "$dir/t2"
run 0 export --tar "$url/data/plain" "$dir/odd-name"; tar -tf "$dir/odd-name" >"$dir/list"; grep -q '^a/deep/' "$dir/list" || fail list
[ "$(tar -tvf "$dir/odd-name" --full-time 2>/dev/null | grep -c '2001-02-03 04:05:06')" = 1 ] || fail "time kept"
run 4 export "$url/data/nothing" -
run 1 export "$url/data/plain" "$dir/nowhere/e.tar"; [ ! -e "$dir/nowhere" ] || fail "made a directory"

# --- sync up: only what changed; --delete asks, says, removes
run 0 sync --json "$dir/src" "$url/data/sync"; [ "$(field files)" = 303 ] || fail "sync: $(cat "$dir/out")"
run 0 sync --json "$dir/src" "$url/data/sync"; [ "$(field same)" = 303 ] && [ "$(field files)" = 0 ] || fail "sync again"
echo changed >"$dir/src/a/3.txt"; rm "$dir/src/a/4.txt"; rm -r "$dir/src/big"
run 0 sync "$dir/src" "$url/data/sync"
run 0 cat "$url/data/sync/a/3.txt" "$url/data/sync/a/4.txt"; [ "$(cat "$dir/out")" = $'changed\nfile 4' ] || fail "kept without --delete"
run 0 sync --delete --dry-run "$dir/src" "$url/data/sync"; says "would remove 2 entries"
run 2 sync --delete "$dir/src" "$url/data/sync"; says "--yes"
run 0 sync --delete --yes "$dir/src" "$url/data/sync"
run 4 ls "$url/data/sync/a/4.txt"; run 4 ls "$url/data/sync/big"; run 0 ls "$url/data/sync"; says "none/"

# --- sync down and across
run 0 sync "$url/data/sync" "$dir/down"; same_trees "$dir/src" "$dir/down"
mkdir -p "$dir/down/extra/x"; echo 1 >"$dir/down/extra/x/y"; ln -s /etc/passwd "$dir/down/a/out"
echo kept >"$dir/outside"; ln -s "$dir/outside" "$dir/down/link"
run 0 sync --delete --yes "$url/data/sync" "$dir/down"; same_trees "$dir/src" "$dir/down"
[ "$(cat "$dir/outside")" = kept ] || fail "a link was followed"
run 0 bucket create "$url/other"
run 0 sync "$url/data/sync" "$url/other/copy"; run 0 sync --json "$url/data/sync" "$url/other/copy"
[ "$(field files)" = 0 ] || fail "sync across again"
run 2 sync "$url/data/sync" "$url/data/sync/in"; says "lie in each other"
run 4 sync --delete --yes "$url/data/nothing" "$dir/down"; same_trees "$dir/src" "$dir/down"
run 2 sync "$dir/src/zero" "$url/data/z"; says "granary cp"

# --- du
run 0 du "$url/data/plain"; says "8.6 MiB"; says "plain/a/"
run 0 du --json --depth 0 "$url/data/sync"; [ "$(field objects)" = 301 ] || fail "du: $(cat "$dir/out")"
run 0 du --json --depth 5 "$url/data/plain"; [ "$(grep -c '"objects"' "$dir/out")" = 5 ] || fail "du lines: $(cat "$dir/out")"
run 4 du "$url/data/nothing"

# --- datasets, and what stat says
run 0 mkdir "$url/data/plainly"
run 0 dataset create "$url/data/set/one"; run 0 dataset create "$url/data/set/two"
echo x >"$dir/x"; run 0 cp "$dir/x" "$url/data/set/one/x"
run 0 dataset ls "$url/data"; grep -qx data/set/one/ "$dir/out" && grep -qx data/set/two/ "$dir/out" || fail "dataset ls: $(cat "$dir/out")"
! grep -q plainly "$dir/out" || fail "a directory is no dataset"
run 0 dataset rm "$url/data/set/one"; run 0 cat "$url/data/set/one/x"
run 0 dataset ls --json "$url"; ! grep -q set/one "$dir/out" && grep -q '"path":"set/two/"' "$dir/out" || fail "dataset rm"
run 4 dataset rm "$url/data/set/one"; says "is no dataset"
run 4 dataset rm "$url/data/plainly"; says "is no dataset"
run 0 dataset create "$url/data/set/one"; run 0 dataset ls "$url/data"; grep -qx data/set/one/ "$dir/out" || fail "dataset again"
run 0 setattr --perm 0750 "$url/data/plainly"
for p in plainly plainly/; do
	run 0 stat --json "$url/data/$p"; [ "$(field mode)" = 0750 ] && [ "$(field type)" = dir ] || fail "stat $p: $(cat "$dir/out")"
done
run 0 stat --json "$url/data/set/one/x"; [ "$(field etag)" = "$(field hash)-1" ] || fail "etag: $(cat "$dir/out")"
echo y | "$granary" write "$url/data/set/one/x" --offset 0 || fail write
run 0 stat --json "$url/data/set/one/x"
[ "$(field etag)" = "$(printf %016x "$(field version)")-1" ] || fail "etag of what was written in place: $(cat "$dir/out")"

# --- what is made from the tables
run 0 explain; [ "$(grep -c . "$dir/out")" -ge 38 ] || fail "explain lists all"
run 0 explain GRANARY_ENOSPACE; says "reads and removals go on"
run 4 explain NONSENSE
run 0 manual; if command -v mandoc >/dev/null; then mandoc -T lint -W warning "$dir/out" >"$dir/lint" || { head "$dir/lint"; fail lint; }; fi
run 0 completion bash; bash -n "$dir/out" || fail "bash completion"
bash -c '. "$1"; COMP_WORDS=(granary snap); COMP_CWORD=1; _granary; [ "${COMPREPLY[*]}" = snapshot ] || exit 1
	COMP_WORDS=(granary snapshot cr); COMP_CWORD=2; _granary; [[ " ${COMPREPLY[*]} " == *" create "* ]] || exit 2
	COMP_WORDS=(granary import --lay); COMP_CWORD=2; _granary; [ "${COMPREPLY[*]}" = --layout ] || exit 3' _ "$dir/out" ||
	fail "bash completion says $?"
run 0 completion fish; grep -q "complete -c granary -n __fish_use_subcommand -a import" "$dir/out" || fail fish
run 2 completion tcsh
server_stop

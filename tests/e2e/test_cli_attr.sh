#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Goal: setattr, xattr, tag, ln and mknod do what they say, say what is wrong, and last over a restart of the server.
source "$(dirname "${BASH_SOURCE[0]}")/cli_lib.sh"
server_start
g() { "$granary" "$@"; }
# field NAME ADDRESS: of the JSON that stat prints
field() { g stat --json "$2" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
is() { [ "$1" = "$2" ] || fail "got '$1', expected '$2'"; }
refused() { # CODE TEXT COMMAND...
	local want=$1 text=$2 rc=0
	shift 2
	g "$@" >"$dir/out" 2>"$dir/err" || rc=$?
	[ "$rc" = "$want" ] || fail "granary $*: exit code $rc, expected $want: $(cat "$dir/err")"
	grep -q "$text" "$dir/err" || fail "granary $*: no '$text' in: $(cat "$dir/err")"
}
g bucket create "$url/data"
printf 'some bytes' | g cp - "$url/data/dir/a"

g setattr --perm 0600 --owner 12:34 --mtime 1700000000.25 --atime 1600000000 "$url/data/dir/a"
is "$(field mode "$url/data/dir/a")" 0600
is "$(field uid "$url/data/dir/a")" 12
is "$(field gid "$url/data/dir/a")" 34
is "$(field mtime "$url/data/dir/a")" 2023-11-14T22:13:20.250000000Z
is "$(field atime "$url/data/dir/a")" 2020-09-13T12:26:40.000000000Z
version=$(field version "$url/data/dir/a")
g setattr --perm 0750 --owner :7 "$url/data/dir/"
refused 2 'nothing to set' setattr "$url/data/dir/a"
refused 2 'octal' setattr --perm rw "$url/data/dir/a"
refused 2 'numbers' setattr --owner root "$url/data/dir/a"
refused 2 'seconds' setattr --mtime tomorrow "$url/data/dir/a"
refused 4 'no such object' setattr --perm 0600 "$url/data/dir/none"

g xattr "$url/data/dir/a" user.source=camera=7 security.label=x
is "$(g xattr "$url/data/dir/a" user.source)" user.source=camera=7
is "$(g xattr "$url/data/dir/a" | wc -l)" 2
g xattr --remove "$url/data/dir/a" security.label
is "$(g xattr "$url/data/dir/a")" user.source=camera=7
refused 1 'no such attribute' xattr "$url/data/dir/a" user.none
refused 1 'no such attribute' xattr --remove "$url/data/dir/a" user.none
g xattr "$url/data/dir/" user.of=directory
is "$(g xattr "$url/data/dir/")" user.of=directory

g tag "$url/data/dir/a" split=train quality=high
g tag "$url/data/dir/a" split=test
g tag --remove "$url/data/dir/a" quality
is "$(g tag "$url/data/dir/a")" split=test
is "$(field version "$url/data/dir/a")" "$version"

g ln "$url/data/dir/a" "$url/data/other/b"
is "$(field nlink "$url/data/other/b")" 2
is "$(g cat "$url/data/other/b")" 'some bytes'
is "$(g xattr "$url/data/other/b" user.source)" user.source=camera=7
refused 1 'already exists' ln "$url/data/dir/a" "$url/data/other/b"
refused 1 'is a directory' ln "$url/data/dir/" "$url/data/other/c"
refused 2 'one bucket' ln "$url/data/dir/a" "$url/elsewhere/x"
g mv --yes "$url/data/other/b" "$url/data/moved"
g rm --yes "$url/data/dir/a"
is "$(field nlink "$url/data/moved")" 1
is "$(field mode "$url/data/moved")" 0600

g ln -s ../somewhere/else "$url/data/soft"
g mknod "$url/data/null" c 1 3 --perm 0666
g mknod "$url/data/pipe" p
refused 2 'MAJOR and MINOR' mknod "$url/data/x" c
refused 1 'already exists' mknod "$url/data/pipe" p
is "$(field type "$url/data/soft")" symlink
is "$(field target "$url/data/soft")" ../somewhere/else
is "$(field type "$url/data/null")" 'char device'
is "$(field rdev "$url/data/null")" 259
g ls -l "$url/data/" | grep -q '^prw-r--r--.*pipe$' || fail "ls -l does not show the pipe"
refused 1 'has no bytes' cat "$url/data/soft"
g cp -r "$url/data" "$dir/down" 2>"$dir/err" || fail "cp -r: $(cat "$dir/err")"
grep -q '3 symbolic links and special files are left out' "$dir/err" || fail "cp -r: $(cat "$dir/err")"
is "$(cat "$dir/down/moved")" 'some bytes'

# A copy on one server refers to the bytes: they outlive what they were taken from, its dataset, and compaction.
g bucket create "$url/second"
head -c 3000000 /dev/urandom >"$dir/big"
g mkdir --dataset "$url/data/set"
g cp "$dir/big" "$url/data/set/big"
g xattr "$url/data/set/big" user.kept=yes
g cp "$url/data/set/big" "$url/second/copy"
is "$(g xattr "$url/second/copy" user.kept)" user.kept=yes
g rm -r --yes "$url/data/set"
PYTHONPATH=$(dirname "${BASH_SOURCE[0]}") python3 - "$dir/store/root.credentials" "$url" <<'EOF'
import struct, sys
from granary_wire import *  # noqa: F403
made = dict(l.split("=", 1) for l in open(sys.argv[1]).read().split("\n") if "=" in l)
c = Client("tcp:" + sys.argv[2].removeprefix("granary://"), made["access_key"], bytes.fromhex(made["secret"]))
for verb in ("rotate", "compact", "compact"):
    c.call(TASK, b16(verb) + b16(""))
meta = c.mutation("data") + ref_key("un/finished") + struct.pack("<III", 0o644, 0, 0) + b16("")
(upload,) = struct.unpack("<Q", c.call(UPLOAD_CREATE, meta)[0].meta)
assert c.put("data", [((ref_name(upload, b"00001"),), b"part")])[0] == [0]
EOF
g cp "$url/second/copy" "$dir/back"
cmp "$dir/big" "$dir/back" || fail "the copy has other bytes"
g check
g multipart ls "$url/data" | grep -q '^[0-9a-f]\{16\} *1 *4 B .*un/finished$' || fail "ls: $(g multipart ls "$url/data")"
refused 1 'not empty' bucket rm --yes "$url/data"
g multipart rm "$url/data" "$(g multipart ls --json "$url/data" | sed 's/.*"upload":"\([0-9a-f]*\)".*/\1/')"
is "$(g multipart ls "$url/data")" ''
refused 4 'names nothing' multipart rm "$url/data" 00000000000000ff

server_stop
server_start
cmp "$dir/big" <(g cat "$url/second/copy") || fail "the copy has other bytes after a restart"
is "$(field nlink "$url/data/moved")" 1
is "$(g cat "$url/data/moved")" 'some bytes'
is "$(g tag "$url/data/moved")" split=test
is "$(field target "$url/data/soft")" ../somewhere/else
g check
server_stop
echo passed

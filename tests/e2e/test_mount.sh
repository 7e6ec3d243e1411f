#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_mount.sh -- snapshots mounted, on each transport that the kernel has: names, attributes, bytes, listings of large
# and odd directories, what is refused; a server that stops, dies and comes back; a mount whose program was killed.
. "$(dirname "$0")/cli_lib.sh"
[ -c /dev/fuse ] || { echo "skipped: there is no /dev/fuse"; exit 77; }
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root, to mount"; exit 77; }
[ -x "$build/granary-mount" ] || { echo "skipped: granary-mount is not built"; exit 77; }
mnt=$dir/mnt
mkdir "$mnt"

mount_end() { umount -l "$mnt" 2>/dev/null || true; }
trap 'mount_end; cleanup' EXIT

server_start
run 0 bucket create "$url/data"

# --- a tree with what a directory may hold
src_tree=$dir/tree
mkdir -p "$src_tree/few/deep/deeper" "$src_tree/many" "$src_tree/dirs"
for i in $(seq 1 3000); do printf 'file %d' "$i" >"$src_tree/many/$i.txt"; done
for i in $(seq 1 200); do mkdir "$src_tree/dirs/$i" && printf '%d' "$i" >"$src_tree/dirs/$i/only"; done
printf 'x' >"$src_tree/few/deep/deeper/one"
printf 'ümlaut' >"$src_tree/few/ü b"
: >"$src_tree/few/zero"
head -c 13000001 /dev/urandom >"$src_tree/few/large"
head -c 300000 /dev/urandom >"$src_tree/few/middle"
printf 'n' >"$src_tree/few/$(printf 'n%.0s' $(seq 255))"
run 0 import "$src_tree" "$url/data/tree"
# Between `a` and `a/` other names sort: a-b, a.c; what is a file and a directory is shown as the directory.
mkdir -p "$dir/odd"
printf '1' >"$dir/odd/a-b"; printf '2' >"$dir/odd/a.c"; printf '3' >"$dir/odd/a0"
run 0 import "$dir/odd" "$url/data/odd"
printf 'file' >"$dir/one"
run 0 cp "$dir/one" "$url/data/odd/a"
run 0 cp "$dir/one" "$url/data/odd/a/below"
run 0 snapshot create "$url/data@v1"
printf 'later' >"$dir/one"
run 0 cp "$dir/one" "$url/data/tree/few/later"
run 0 rm "$url/data/tree/few/middle" --yes

in_mount() { # NAME COMMAND...: must succeed within 60 s
	local name=$1
	shift
	timeout 60 "$@" >"$dir/out" 2>"$dir/err" || { cat "$dir/out" "$dir/err" >&2; fail "$name"; }
}
refused() { # WORDS COMMAND...
	local words=$1
	shift
	! timeout 60 "$@" >"$dir/out" 2>"$dir/err" || fail "not refused: $*"
	says "$words"
}

# --- all of it, on one transport
whole() {
	run 0 mount "$url/data@v1" "$mnt" "transport=$1" "io=$2" deadline=5s
	mountpoint -q "$mnt" || fail "$1: nothing is mounted"
	in_mount "$1: trees differ" diff -r "$src_tree" "$mnt/tree"
	in_mount "$1: again, out of the kernel's cache" diff -r "$src_tree" "$mnt/tree"
	[ "$(ls "$mnt/tree/many" | wc -l)" = 3000 ] || fail "$1: many"
	[ "$(find "$mnt/tree/dirs" -name only | wc -l)" = 200 ] || fail "$1: dirs"
	[ "$(cd "$mnt/odd" && find . | sort | tr '\n' ' ')" = ". ./a ./a-b ./a.c ./a/below ./a0 " ] || fail "$1: odd"
	[ "$(stat -c '%s %F %a' "$mnt/tree/few/large")" = "13000001 regular file 444" ] || fail "$1: stat"
	[ "$(stat -c '%F %a' "$mnt/tree")" = "directory 555" ] || fail "$1: stat of a directory"
	[ ! -e "$mnt/tree/few/later" ] || fail "$1: shows what came after the snapshot"
	refused "Read-only file system" touch "$mnt/new"
	refused "Read-only file system" rm "$mnt/tree/few/zero"
	refused "No such file" cat "$mnt/tree/none"
	refused "Not a directory" cat "$mnt/tree/few/zero/x"
	refused "too long" cat "$mnt/tree/$(printf 'n%.0s' $(seq 256))"
	if /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
		in_mount "$1: np.memmap" /usr/bin/python3 - "$src_tree/few/large" "$mnt/tree/few/large" <<-'PY'
		import sys
		import numpy as np
		good, mapped = np.fromfile(sys.argv[1], np.uint8), np.memmap(sys.argv[2], np.uint8, "r")
		assert np.array_equal(good, mapped)
		try:
		    import pyarrow
		except ImportError:
		    sys.exit(0)
		with pyarrow.memory_map(sys.argv[2]) as f:
		    assert f.read_buffer().to_pybytes() == good.tobytes()
		PY
	fi
	in_mount "$1: extended attributes" python3 - "$mnt/tree/few/large" "$mnt/tree" <<-'PY'
	import errno, os, sys
	path, tree = sys.argv[1:]
	names = ["user.granary.etag", "user.granary.pack", "user.granary.tier"]
	assert sorted(os.listxattr(path)) == names and os.listxattr(tree) == []
	assert os.getxattr(path, names[1]).endswith(b"+13000001")
	assert os.getxattr(path, names[2]) == b"memory"
	assert os.getxattr(path, names[0]) == os.getxattr(path, names[0]) != b""
	for name in ("user.none", "user.granary.etags"):
	    try:
	        os.getxattr(path, name)
	        raise SystemExit(name)
	    except OSError as e:
	        assert e.errno == errno.ENODATA, e
	PY
	# What it says of itself, in a directory that nobody sees.
	[ -z "$(ls -A "$mnt" | grep granary)" ] || fail "$1: .granary is listed"
	[ "$(ls "$mnt/.granary" | sort | tr '\n' ' ')" = "accesslog config health metrics stats " ] || fail "$1: .granary"
	[ "$(head -1 "$mnt/.granary/health")" = ok ] || fail "$1: health"
	grep -q "^source $url/data@v1" "$mnt/.granary/config" || fail "$1: config"
	grep -q '^granary_mount_op_count{op="READ"} ' "$mnt/.granary/metrics" || fail "$1: metrics"
	grep -q ' LOOKUP .* name=' "$mnt/.granary/accesslog" || fail "$1: accesslog"
	reads() { awk '$1 == "op.READ.count" { print $2 }' "$mnt/.granary/stats"; }
	before=$(reads)
	in_mount "$1: read again" dd if="$mnt/tree/few/large" iflag=direct bs=1M of=/dev/null
	[ "$(reads)" -ge $((before + 13)) ] || fail "$1: reads are not counted"
	refused "No such file" cat "$mnt/.granary/none"
	refused "Read-only file system" rm "$mnt/.granary/stats"
	run 0 stats "$mnt/tree/few" --count 1; says "requests/s"
	run 0 stats "$mnt" --count 1 --json; says '"op.READ.count":'
	run 0 profile "$mnt"; says "What would help"
	run 0 warm "$mnt/tree/few"; says "read 6 files"
	run 0 warm --snapshot "$mnt/odd"; says "read 3,2"
	printf '%s\n' "$mnt/odd/a0" "$mnt/tree/dirs" >"$dir/list"
	run 0 warm -f "$dir/list"; says "read 201 files"
	run 4 warm "$src_tree"; says "is not in a mount of granary"
	# Parts of a large file in any order, with and without the kernel's cache, and mapped.
	in_mount "$1: parts" python3 - "$src_tree/few/large" "$mnt/tree/few/large" <<-'PY'
	import mmap, os, random, sys
	good = open(sys.argv[1], "rb").read()
	for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
	    fd, random_ = os.open(sys.argv[2], flags), random.Random(7)
	    room = mmap.mmap(-1, 3 << 20)
	    for _ in range(200):
	        at = random_.randrange(0, len(good) + 5000)
	        at -= at % 4096 if flags & os.O_DIRECT else 0
	        size = random_.choice((4096, 65536, 1 << 20, 3 << 20))
	        got = os.preadv(fd, [memoryview(room)[:size]], at)
	        assert room[:got] == good[at:at + size][:got], (flags, at, size)
	        assert got == max(0, min(size, len(good) - at)), (flags, at, size, got)
	    os.close(fd)
	for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
	    with open(sys.argv[2], "rb") as f, mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as m:
	        assert m[:] == good
	PY
	[ "$2" = direct ] || server_stands_still "$1"
	run 0 umount "$mnt"
	! mountpoint -q "$mnt" || fail "$1: still mounted"
}
server_stands_still() {
	# The server dies: what the kernel and the program hold goes on, the rest ends by the deadline; it comes back by itself.
	kill -STOP "$server"
	in_mount "$1: what is held, while the server stands still" cmp "$src_tree/few/large" "$mnt/tree/few/large"
	[ "$(stat -f -c %T "$mnt")" ] || fail "$1: statfs"
	kill -CONT "$server"
	echo 3 >/proc/sys/vm/drop_caches
	in_mount "$1: after the server went on" cmp "$src_tree/few/large" "$mnt/tree/few/large"
}

whole classic cached
whole classic direct
if [ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" = Y ]; then
	whole uring cached
	whole uring direct
else
	echo "not tried: FUSE over io_uring (/sys/module/fuse/parameters/enable_uring is not Y)"
	run 1 mount "$url/data@v1" "$mnt" transport=uring; says "transport=uring"
fi

# --- a directory of it; other owners
run 0 mount "$url/data@v1/tree/few" "$mnt" uid=12 gid=34 umask=022
[ "$(stat -c '%u %g %a' "$mnt/zero")" = "12 34 444" ] || fail "owner"
[ "$(cat "$mnt/ü b")" = ümlaut ] || fail "a directory of a snapshot"
run 0 umount "$mnt"

# --- what is mounted is not removed by mistake
run 0 mount "$url/data@v1" "$mnt"
for _ in $(seq 100); do "$granary" jobs "$url" | grep -q 'mount:' && break; sleep 0.05; done
run 1 snapshot rm "$url/data@v1" --yes; says "mount:"
run 0 umount "$mnt"
for _ in $(seq 100); do "$granary" jobs "$url" | grep -q 'mount:' || break; sleep 0.05; done

# --- contents kept on this machine: after a remount, a killed program and another one, without a server
mkdir "$dir/flash"
run 0 mount "$url/data@v1" "$mnt" "cache=$dir/flash" size=64MiB
in_mount "into the cache" diff -r "$src_tree" "$mnt/tree"
kill -KILL "$(pgrep -n -f "granary-mount $url/data@v1 $mnt")"
run 0 umount "$mnt"
run 0 mount "$url/data@v1" "$mnt" "cache=$dir/flash" size=64MiB deadline=1s
in_mount "names" ls -lR "$mnt"
kill -STOP "$server"
# A cache may have let go of a few (a bucket of its index that is full); what it gives is right, and is nearly all.
timeout 120 diff -r "$src_tree" "$mnt/tree" >"$dir/out" 2>&1 || true
if grep -v 'timed out$' "$dir/out" >&2 || [ "$(wc -l <"$dir/out")" -gt 3 ]; then
	cat "$dir/out" >&2
	fail "out of the cache"
fi
kill -CONT "$server"
[ "$(stat -c %s "$dir/flash/granary-cache")" -le $((64 << 20)) ] || fail "the cache is larger than it may be"
run 0 umount "$mnt"
run 2 mount "$url/data@v1" "$mnt" "cache=$dir/flash" size=1MiB; says "64MiB at least"
run 1 mount "$url/data@v1" "$mnt" "cache=$dir/flash"; says "needs a size"
run 1 mount "$url/data@v1" "$mnt" "cache=/proc/none" size=64MiB; says "/proc/none"

# --- a server that is away: an error by the deadline, never other bytes; it comes back by itself
run 0 mount "$url/data@v1" "$mnt" deadline=1s memory=64MiB transport=classic
in_mount "listing" ls -R "$mnt"
kill -STOP "$server"
refused "timed out" cat "$mnt/tree/few/middle"
kill -CONT "$server"
in_mount "after the server went on" cmp "$src_tree/few/large" "$mnt/tree/few/large"
# A reader that waits can be killed.
kill -STOP "$server"
timeout -s KILL 0.3 cat "$mnt/tree/many/77.txt" >/dev/null 2>&1 || true
kill -CONT "$server"

# --- the program is killed: one command mends it
daemon=$(pgrep -n -f "granary-mount $url/data@v1 $mnt") || fail "no granary-mount runs"
kill -KILL "$daemon"
while kill -0 "$daemon" 2>/dev/null; do sleep 0.05; done
refused "not connected" ls "$mnt/asked-for-the-first-time" # what the kernel holds it goes on showing
refused "not connected" "$build/granary-mount" "$url/data@v1" "$mnt"; says "granary umount"
run 0 umount "$mnt"

# --- wrong words
run 1 mount "$url" "$mnt"; says "names no bucket"
run 1 mount "$url/none" "$mnt"; says "no bucket 'none'"
run 1 mount "$url/data@none" "$mnt"; says "there is no snapshot 'none'"
run 1 mount "$url/data@v1/nothing" "$mnt"; says "nothing below"
run 1 mount "$url/data@v1" "$dir/absent"; says "make the directory first"
run 2 mount "$url/data@v1" "$mnt" memori=1GiB; says "did you mean 'memory'"
run 2 mount "$url/data@v1" "$mnt" deadline=soon; says "a time such as"
run 2 mount "$url/data@v1" "$mnt" transport=fast; says "auto|uring|classic"
run 1 mount granary://127.0.0.1:1/data@v1 "$mnt" deadline=1s
mountpoint -q "$mnt" && fail "something is mounted" || true
run 1 umount "$mnt"
server_stop
echo "passed"

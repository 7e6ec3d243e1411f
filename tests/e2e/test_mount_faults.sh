#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_mount_faults.sh -- a mounted snapshot whose server is killed, stopped or cut off while programs read: nobody waits
# past the deadline, nobody can be kept from being killed, no byte is wrong, and it goes on by itself; what cannot be
# mounted, each with its reason; mounting as a user; a unit, a line of fstab.
[ -c /dev/fuse ] || { echo "skipped: there is no /dev/fuse"; exit 77; }
[ "$(id -u)" -eq 0 ] || { echo "skipped: needs root, to mount"; exit 77; }
# A network and mounts of its own: what it cuts off is nobody else's.
if [ -z "${MOUNT_FAULTS_INSIDE:-}" ]; then
	unshare -n -m true 2>/dev/null || { echo "skipped: no namespaces"; exit 77; }
	MOUNT_FAULTS_INSIDE=1 exec unshare -n -m --propagation private bash "$0"
fi
ip link set lo up
. "$(dirname "$0")/cli_lib.sh"
[ -x "$build/granary-mount" ] || { echo "skipped: granary-mount is not built"; exit 77; }
mnt=$dir/mnt
src_tree=$dir/tree
mkdir "$mnt" "$src_tree" "$src_tree/many"
trap 'jobs -p | xargs -r kill -9 2>/dev/null || true; umount -l "$mnt" 2>/dev/null || true; cleanup' EXIT
chmod 711 "$dir"

for i in $(seq 1 400); do head -c 4096 /dev/urandom >"$src_tree/many/$i"; done
for i in 1 2 3; do head -c 9000000 /dev/urandom >"$src_tree/large$i"; done
server_start
run 0 bucket create "$url/data"
run 0 import "$src_tree" "$url/data/tree"
run 0 snapshot create "$url/data@v1"

# Programs that read, over and over; each fails when it sees what it should not: other bytes, or a wait of several times the
# deadline, which is a second: a step makes two or three requests, and the machine may be busy.
cat >"$dir/reader.py" <<'PY'
import mmap, os, random, sys, time
kind, good, mnt, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
end, pick, longest, done, failed = time.monotonic() + seconds, random.Random(kind), 0, 0, 0
names = ["many/%d" % i for i in range(1, 401)] + ["large%d" % i for i in (1, 2, 3)]
def step():
    if kind == "walk":
        return sum(len(f) for _, _, f in os.walk(mnt)) in (0, len(names))  # os.walk() passes over what it cannot list
    name = pick.choice(names[-3:] if kind == "map" else names)
    want = open(os.path.join(good, name), "rb").read()
    with open(os.path.join(mnt, name), "rb", buffering=0) as f:
        if kind == "map":
            at = pick.randrange(0, len(want) - 4096)
            return os.pread(f.fileno(), 4096, at) == want[at:at + 4096]
        return b"".join(iter(lambda: f.read(1 << 20), b"")) == want
while time.monotonic() < end:
    began = time.monotonic()
    try:
        assert step(), "wrong bytes of " + kind
        done += 1
    except OSError as e:
        failed += 1
        time.sleep(0.05)
    longest = max(longest, time.monotonic() - began)
assert longest < 8, f"{kind}: waited for {longest:.1f} s"
print(kind, "done", done, "failed", failed)
PY
readers() { # SECONDS
	for kind in read map walk; do
		python3 "$dir/reader.py" "$kind" "$src_tree" "$mnt" "$1" >"$dir/reader-$kind" 2>&1 &
		pids+=($!)
	done
}
readers_end() { # NAME
	for pid in "${pids[@]}"; do wait "$pid" || { cat "$dir"/reader-* >&2; fail "$1"; }; done
	pids=()
}
whole() {
	local transport=$1
	run 0 mount "$url/data@v1/tree" "$mnt" "transport=$transport" deadline=1s memory=64MiB
	pids=()
	# Killed, and started again.
	readers 4
	sleep 0.3
	kill -KILL "$server"; wait "$server" 2>/dev/null || true
	echo 3 >/proc/sys/vm/drop_caches
	sleep 2
	timeout 5 stat -f "$mnt" >/dev/null || fail "$transport: statfs without a server"
	server_start
	readers_end "$transport: server killed"
	timeout 20 diff -r "$src_tree" "$mnt" || fail "$transport: after the server was started again"
	# Cut off; the connections are there, but nothing comes through.
	readers 3
	sleep 0.3
	ip link set lo down
	echo 3 >/proc/sys/vm/drop_caches
	sleep 2
	ip link set lo up
	readers_end "$transport: cut off"
	# Stopped; who waits can be killed at once.
	run 0 umount "$mnt"
	run 0 mount "$url/data@v1/tree" "$mnt" "transport=$transport" deadline=1h # it has nothing yet but the names
	ls -l "$mnt" >/dev/null
	kill -STOP "$server"
	cat "$mnt"/large* >/dev/null 2>&1 &
	local waits=$!
	sleep 0.2
	kill -KILL "$waits"
	timeout 20 tail -s 0.05 --pid="$waits" -f /dev/null || fail "$transport: cannot be killed while it waits"
	wait "$waits" 2>/dev/null || true
	kill -CONT "$server"
	timeout 20 diff -r "$src_tree" "$mnt" || fail "$transport: after the server went on"
	run 0 umount "$mnt"
	# A program that is unmounted while it waits for the server ends.
	run 0 mount "$url/data@v1/tree" "$mnt" "transport=$transport" deadline=1h
	ls -l "$mnt" >/dev/null
	local program
	program=$(pgrep -n -f "granary-mount $url/data@v1/tree $mnt") || fail "no program"
	kill -STOP "$server"
	cat "$mnt/large1" >/dev/null 2>&1 &
	waits=$!
	sleep 0.2
	umount -l "$mnt"
	kill -KILL "$waits"
	wait "$waits" 2>/dev/null || true
	timeout 60 tail -s 0.05 --pid="$program" -f /dev/null || fail "$transport: does not end without the server"
	kill -CONT "$server"
}
whole classic
if [ "$(cat /sys/module/fuse/parameters/enable_uring 2>/dev/null)" = Y ]; then whole uring; fi

# --- what cannot be mounted
run 1 mount "$url/data@v1" "$dir/tree"; says "Directory not empty"
run 1 mount "$url/data@v1" "$dir/tree/large1"; says "Not a directory"
run 1 mount "granary://no-such-host.invalid/data@v1" "$mnt" deadline=1s; says "no-such-host.invalid"
run 1 mount "$url/none@v1" "$mnt"; says "none"
sed 's/^secret=..../secret=0000/' "$GRANARY_CREDENTIALS" >"$dir/wrong"
chmod 600 "$dir/wrong"
run 1 mount "$url/data@v1" "$mnt" "credentials=$dir/wrong" deadline=2s
run 1 mount "$url/data@v1" "$mnt" "credentials=$dir/none"; says "No such file"
cp "$GRANARY_CREDENTIALS" "$dir/open" && chmod 644 "$dir/open"
run 1 mount "$url/data@v1" "$mnt" "credentials=$dir/open"; says "open"
run 1 mount "$url/data@v1" /dev/fd/77; says "no such descriptor"
mount -t tmpfs none /dev
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9
mkdir -m 1777 /dev/shm
run 1 mount "$url/data@v1" "$mnt"; says "the kernel has no FUSE"
mountpoint -q "$mnt" && fail "something is mounted"

# --- as a user, through fusermount3
home=$dir/user
mkdir "$home" "$home/mnt"
cp "$GRANARY_CREDENTIALS" "$home/key" && chmod 600 "$home/key"
chown -R 65534:65534 "$home"
as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$home" XDG_RUNTIME_DIR= "$@"; }
if [ -u "$(command -v fusermount3)" ]; then
	mknod -m 666 /dev/fuse c 10 229
	as_user "$build/granary-mount" "$url/data@v1/tree" "$home/mnt" -o "credentials=$home/key" || fail "as a user"
	as_user diff -r "$src_tree/many" "$home/mnt/many" || fail "a user's mount"
	! ls "$home/mnt" >/dev/null 2>&1 || fail "root looks into a user's mount without allow_other"
	as_user "$build/granary-mount" --unmount "$home/mnt" || fail "a user's unmount"
	! as_user "$build/granary-mount" "$url/data@v1" "$mnt" -o "credentials=$home/key" 2>"$dir/err" || fail "elsewhere"
	says "fusermount3 could not mount"
fi
umount -l /dev

# --- what may be stale, on a bucket
printf 'short' >"$dir/file"
run 0 cp "$dir/file" "$url/data/stale"
run 0 mount "$url/data" "$mnt" preset=frozen
[ "$(stat -c %s "$mnt/stale")" = 5 ] || fail "frozen: size"
printf 'longer' >"$dir/file"
run 0 cp "$dir/file" "$url/data/stale"
[ "$(stat -c %s "$mnt/stale")" = 5 ] || fail "frozen: another size"
run 0 umount "$mnt"
run 0 mount "$url/data" "$mnt"
[ "$(stat -c %s "$mnt/stale")" = 6 ] || fail "consistent: size"
printf 'shorter' >"$dir/file"
run 0 cp "$dir/file" "$url/data/stale"
for _ in $(seq 600); do [ "$(stat -c %s "$mnt/stale")" = 7 ] && break; sleep 0.1; done
[ "$(stat -c %s "$mnt/stale")" = 7 ] || fail "consistent: what another one wrote is not seen"
run 0 stats "$mnt" --count 1; says "requests/s"
run 0 umount "$mnt"

# --- what comes back with the machine
run 0 mount "$url/data@v1" "$mnt" deadline=9s dry-run; says "can be mounted"
mountpoint -q "$mnt" && fail "mounted by a dry run"
run 0 mount "$url/data@v1" "$mnt" deadline=9s "credentials=$GRANARY_CREDENTIALS" print-unit
says "What=$url/data@v1"; says "Where=$mnt"; says "Options=_netdev,deadline=9s,credentials=$GRANARY_CREDENTIALS"
if command -v systemd-escape >/dev/null; then says "$(systemd-escape --path --suffix=mount "$mnt")"; fi
export LIBMOUNT_FSTAB=$dir/fstab
printf '# a line\n/dev/x /y ext4 defaults 0 1\nold %s granary x 0 0' "$mnt" >"$LIBMOUNT_FSTAB"
run 0 mount "$url/data@v1" "$mnt" "credentials=$GRANARY_CREDENTIALS" update-fstab
run 0 umount "$mnt"
printf '# a line\n/dev/x /y ext4 defaults 0 1\n%s %s granary _netdev,nofail,credentials=%s 0 0\n' "$url/data@v1" "$mnt" \
	"$GRANARY_CREDENTIALS" | diff - "$LIBMOUNT_FSTAB" || fail "fstab"
server_stop
echo "passed"
